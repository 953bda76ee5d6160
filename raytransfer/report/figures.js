// Figures: the view that the menus choose, in the chosen look and the reader's light or dark mode.

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const narrow = window.matchMedia("(max-width: 40rem)");
const redraws = [];
// On paper, too, figures are in the colours of the page around them.
for (const change of [dark, narrow, window.matchMedia("print")]) {
  change.addEventListener("change", () => redraws.forEach((again) => again()));
}

const PAPER = { ink: "#1d2128", soft: "#5a626e", card: "#ffffff", grid: "#e9ebee", rule: "#c9cdd3" };
const PAPER_WIDTH = 672; // 7 inches, the width of a page's text
const PAPER_SCALE = 300 / 96; // 300 dots an inch
const MOST_ROWS = 1000; // of a table in the page; a CSV has all

function colors() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ink", "soft", "card", "grid", "rule"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

function themed(layout, color, size = 13) {
  const copy = structuredClone(layout);
  copy.autosize = true;
  copy.legend.itemdoubleclick = false;
  copy.paper_bgcolor = copy.plot_bgcolor = "rgba(0, 0, 0, 0)";
  copy.font = { family: getComputedStyle(document.body).fontFamily, size, color: color.ink };
  copy.hoverlabel = {
    ...copy.hoverlabel, bgcolor: color.card, bordercolor: color.soft,
    font: { color: color.ink, size: 12.5 },
  };
  copy.modebar = { bgcolor: "rgba(0, 0, 0, 0)", color: color.soft, activecolor: color.ink };
  for (const name of Object.keys(copy).filter((key) => /^[xy]axis\d*$/.test(key))) {
    Object.assign(copy[name], {
      gridcolor: color.grid, linecolor: color.rule, tickcolor: color.rule, zerolinecolor: color.soft,
    });
  }
  return copy;
}

function fitted(layout, entries) {
  // A legend takes its lines from the plot's height: give them back.
  layout.height += 20 * (narrow.matches ? entries : Math.floor(entries / 6));
  if (narrow.matches) {
    layout.margin = { ...layout.margin, l: 40, r: 6 };
    layout.legend = { ...layout.legend, x: -0.08 };
    layout.font.size = 12;
    for (const note of layout.annotations ?? []) note.font = { ...note.font, size: 11 };
  }
  return layout;
}

function faint(color) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  return `rgba(${red}, ${green}, ${blue}, 0.14)`;
}

// A trace in the chosen look, with picked networks before all others.
function dressed(trace) {
  const copy = { ...trace };
  const name = document.getElementById("look")?.value ?? "safe";
  const look = LOOKS[name][trace.meta?.series];
  if (look && name !== "safe") {
    if (copy.marker) copy.marker = { ...copy.marker, color: look.color, symbol: look.symbol };
    if (copy.line) {
      const dash = copy.fill ? {} : { dash: look.dash };
      copy.line = { ...copy.line, color: look.color, ...dash };
    }
    if (copy.fillcolor) copy.fillcolor = faint(look.color);
  }
  if (picked.size && copy.customdata) {
    copy.selectedpoints = copy.customdata.flatMap((id, i) => (picked.has(id) ? [i] : []));
    copy.selected = { marker: { size: 15, opacity: 1 } };
    copy.unselected = { marker: { opacity: 0.3 } };
  }
  if (picked.has(copy.meta?.network)) copy.line = { ...copy.line, width: 4.5 };
  return copy;
}

function csv(rows) {
  const cell = (value) => {
    const text = String(value ?? "");
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => row.map(cell).join(",") + "\n").join("");
}

function fillTable(place, [header, ...rows]) {
  const table = document.createElement("table");
  const line = (part, cells, kind) => {
    const row = part.insertRow();
    for (const value of cells) {
      const cell = document.createElement(kind);
      cell.textContent = value ?? "";
      if (kind === "th") cell.scope = "col";
      row.append(cell);
    }
  };
  if (rows.length > MOST_ROWS) {
    const number = (count) => count.toLocaleString("en");
    table.createCaption().textContent =
      `The first ${number(MOST_ROWS)} of ${number(rows.length)} rows; the CSV has all.`;
  }
  line(table.createTHead(), header, "th");
  const body = table.createTBody();
  for (const row of rows.slice(0, MOST_ROWS)) line(body, row, "td");
  place.replaceChildren(table);
}

async function startFigure(figure) {
  const id = figure.dataset.figure;
  const plot = figure.querySelector(".plot");
  const { choices, views } = JSON.parse(figure.querySelector("script").textContent);
  const choosers = [...figure.querySelectorAll("select[data-view]")];
  const menus = [...figure.querySelectorAll("select[data-menu]")];
  const overlay = figure.querySelector("[data-overlay]");
  const along = figure.querySelector("[data-along]");
  const table = figure.querySelector("details.drawn");
  const toggled = new Map(); // names of the legend that the reader has taken out or in
  let view;

  async function choose(event) {
    // Not every choice of all menus is there: the one that was just made stands, and the others
    // follow it as far as they can.
    const wanted = choosers.map((chooser) => chooser.value);
    const changed = choosers.indexOf(event?.target);
    const agreeing = (choice) => choice.filter((value, i) => value === wanted[i]).length;
    const places = [...choices.keys()].filter(
      (place) => changed < 0 || choices[place][changed] === wanted[changed],
    );
    const chosen = places.reduce((a, b) => (agreeing(choices[b]) > agreeing(choices[a]) ? b : a));
    choosers.forEach((chooser, i) => { chooser.value = choices[chosen][i]; });
    view = { place: chosen, ...JSON.parse(await unpacked(views[chosen])) };
    tell();
    await draw();
  }

  function tell() {
    if (table.open) fillTable(table.querySelector("div"), view.numbers);
  }

  function toggle(name) {
    toggled.set(name, plot.data.find((trace) => trace.legendgroup === name).visible !== true);
    return draw();
  }

  // The legend can be reached and used by keyboard, as by mouse.
  function openLegend() {
    for (const entry of plot.querySelectorAll(".legend .traces")) {
      const { trace } = entry.__data__[0];
      entry.setAttribute("tabindex", "0");
      entry.setAttribute("role", "checkbox");
      entry.setAttribute("aria-checked", trace.visible === true);
      entry.setAttribute("aria-label", `show ${trace.name}`);
    }
  }

  function seen(trace) {
    const shown = chosenToBeSeen(trace);
    return shown && toggled.has(trace.legendgroup) ? toggled.get(trace.legendgroup) || "legendonly" : shown;
  }

  function chosenToBeSeen(trace) {
    if (trace.meta?.overlay) return overlay.checked;
    if (!menus.length) return trace.visible ?? true;
    if (!trace.meta.network || picked.has(trace.meta.network)) return true;
    return menus.every((menu) => {
      const value = trace.meta[menu.dataset.menu];
      const always = menu.dataset.menu === "series" && value === "base";
      return always || menu.value === "" || menu.value === value;
    });
  }

  function content(color) {
    const data = view.data.map((trace) => ({ ...dressed(trace), visible: seen(trace) }));
    for (const trace of data) if (trace.error_y) trace.error_y = { ...trace.error_y, color: color.ink };
    // Where one view is drawn anew, as when networks are picked, the reader's zoom stays.
    const layout = { ...structuredClone(view.layout), uirevision: view.place };
    if (along?.value === "images") {
      for (const trace of data) trace.x = trace.x.map((step) => step * trace.meta.images);
      for (const axis of Object.values(layout)) if (axis.title?.text === "steps") axis.title.text = "images";
    }
    return { data, layout };
  }

  async function draw() {
    const color = colors();
    const { data, layout } = content(color);
    const named = data.filter((trace) => trace.showlegend !== false && trace.visible !== false);
    await Plotly.react(plot, data, fitted(themed(layout, color), named.length), {
      responsive: true,
      displaylogo: false,
      // plotly.js offers to upload the chart by default; this page sends nothing anywhere.
      plotlyServerURL: "",
      modeBarButtonsToRemove: ["sendChartToCloud", "select2d", "lasso2d", "autoScale2d", "toImage"],
    });
    openLegend();
  }

  // For a paper: white, of a page's width, whatever the reader's screen is.
  async function image(format) {
    const { data, layout } = content(PAPER);
    const shown = { ...themed(layout, PAPER, 11), paper_bgcolor: "#ffffff", width: PAPER_WIDTH };
    const scale = format === "png" ? PAPER_SCALE : 1;
    const size = { format, width: PAPER_WIDTH, height: layout.height, scale };
    const url = await Plotly.toImage({ data, layout: shown }, size);
    const comma = url.indexOf(",");
    if (format === "svg") {
      download(decodeURIComponent(url.slice(comma + 1)), "image/svg+xml", `${id}.svg`);
    } else {
      const bytes = Uint8Array.from(atob(url.slice(comma + 1)), (char) => char.charCodeAt(0));
      download(bytes, "image/png", `${id}.png`);
    }
  }

  figure.addEventListener("click", (event) => {
    const kind = event.target.dataset?.download;
    if (kind === "csv") download(csv(view.numbers), "text/csv", `${id}.csv`);
    else if (kind) image(kind);
  });
  for (const chooser of choosers) chooser.addEventListener("change", choose);
  for (const control of [...menus, overlay, along]) control?.addEventListener("change", draw);
  figure.querySelector("#look")?.addEventListener("change", () => redraws.forEach((again) => again()));
  redraws.push(draw);
  onPick.push(draw);
  table.addEventListener("toggle", tell);
  plot.addEventListener("keydown", async (event) => {
    const entry = event.target.closest?.(".legend .traces");
    if (!entry || (event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    const name = entry.__data__[0].trace.legendgroup;
    await toggle(name);
    const entries = [...plot.querySelectorAll(".legend .traces")];
    entries.find((other) => other.__data__[0].trace.legendgroup === name)?.focus();
  });
  await choose();
  plot.on("plotly_legendclick", ({ data, curveNumber }) => {
    toggle(data[curveNumber].legendgroup);
    return false;
  });
  plot.on("plotly_click", ({ points: [point] }) => {
    const network = point.customdata ?? point.data.meta?.network;
    if (network) pick(network);
  });
}
