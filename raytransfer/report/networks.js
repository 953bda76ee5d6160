// The table of networks: sorted by a column, filtered by name and state, picked by a name.

function startNetworks() {
  const table = document.getElementById("all-networks");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const filter = document.getElementById("filter");
  const state = document.getElementById("state");
  const count = document.getElementById("count");

  function value(row, column) {
    const text = row.cells[column].textContent.trim();
    const number = Number(text.replaceAll(",", ""));
    return text !== "" && !Number.isNaN(number) ? number : text;
  }

  function sort(column, heading) {
    const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of heading.parentElement.cells) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const keyed = rows.map((row, place) => [value(row, column), place, row]);
    keyed.sort(([a, i], [b, j]) => {
      // What is empty stands last, whichever way the rest is sorted.
      if (a === "" || b === "") return (a === "") - (b === "") || i - j;
      const order = typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
      return sign * order || i - j;
    });
    body.append(...keyed.map(([, , row]) => row));
  }

  function sift() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const row of rows) {
      const name = row.dataset.id.toLowerCase();
      const shown =
        words.every((word) => name.includes(word)) &&
        (state.value === "" || row.dataset.state === state.value);
      row.hidden = !shown;
      left += shown;
    }
    count.textContent = `${left} network${left === 1 ? "" : "s"}`;
  }

  function mark() {
    for (const row of rows) {
      const chosen = picked.has(row.dataset.id);
      row.classList.toggle("picked", chosen);
      row.querySelector("button.pick").setAttribute("aria-pressed", chosen);
    }
  }

  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => sort(column, heading));
  });
  sift();
  filter.addEventListener("input", sift);
  state.addEventListener("change", sift);
  body.addEventListener("click", (event) => {
    const button = event.target.closest("button.pick");
    if (button) pick(button.closest("tr").dataset.id);
  });
  mark();
  onPick.push((id) => {
    mark();
    const row = rows.find((one) => one.dataset.id === id);
    if (row && picked.has(id) && !row.hidden) {
      const frame = table.parentElement;
      frame.scrollTop = row.offsetTop - frame.clientHeight / 2;
    }
  });
  document.getElementById("results-csv").addEventListener("click", async () => {
    const content = await unpacked(document.getElementById("results").textContent);
    download(content, "text/csv", "results.csv");
  });
}
