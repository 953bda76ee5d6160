// The page's start: unpack plotly.js, draw each figure, make the table work. LOOKS comes before.

async function unpacked(text) {
  const packed = atob(text);
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

function download(content, type, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// Networks that are picked: emphasised in every figure, in the curves and in the table.
const picked = new Set();
const onPick = [];

function pick(id) {
  if (!picked.delete(id)) picked.add(id);
  for (const told of onPick) told(id);
}

function tellPicked() {
  const bar = document.getElementById("picked");
  bar.hidden = picked.size === 0;
  bar.replaceChildren(
    ...[...picked].map((id) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `${id} ×`;
      button.setAttribute("aria-label", `${id}: no longer picked`);
      button.addEventListener("click", () => pick(id));
      return button;
    }),
    ...[["#networks", "row"], ["#curves", "curve"]].map(([place, name]) => {
      const link = document.createElement("a");
      link.href = place;
      link.textContent = name;
      return link;
    }),
  );
}

async function drawPage() {
  redraws.length = onPick.length = 0;
  startNetworks();
  onPick.push(tellPicked);
  const figures = document.querySelectorAll("figure[data-figure]");
  for (const figure of figures) {
    await startFigure(figure);
    if (figure === figures[0]) performance.mark("first figure");
    // The reader sees each figure before the next one is drawn.
    await new Promise(requestAnimationFrame);
  }
}

// What the reader has set, by place, so that a renewed page is as the old one was.
function controls() {
  const found = new Map();
  for (const control of document.querySelectorAll("main select, main input")) {
    const place = control.closest("figure, section");
    const all = [...place.querySelectorAll("select, input")];
    found.set(`${place.dataset.figure ?? place.id} ${all.indexOf(control)}`, control);
  }
  return found;
}

async function renew() {
  const content = await (await fetch("/")).text();
  const fresh = new DOMParser().parseFromString(content, "text/html").querySelector("main");
  const before = controls();
  const opened = [...document.querySelectorAll("main details")].map((details) => details.open);
  const [x, y] = [scrollX, scrollY];
  document.querySelectorAll(".plot").forEach((plot) => Plotly.purge(plot));
  // The plots' places keep their heights, so that nothing moves under the reader's eyes.
  for (const plot of document.querySelectorAll(".plot")) {
    const place = fresh.querySelector(`#${plot.id}`);
    if (place) place.style.minHeight = `${plot.offsetHeight}px`;
  }
  document.querySelector("main").replaceWith(fresh);
  for (const [place, control] of controls()) {
    const old = before.get(place);
    if (old?.type === "checkbox") control.checked = old.checked;
    else if (old && (control.tagName === "INPUT" || [...control.options].some((o) => o.value === old.value))) {
      control.value = old.value;
    }
  }
  [...document.querySelectorAll("main details")].forEach((details, i) => { details.open = opened[i] ?? false; });
  scrollTo(x, y);
  await drawPage();
}

async function follow(live) {
  let { version } = live.dataset;
  for (;;) {
    try {
      const state = await (await fetch("/state")).json();
      live.replaceChildren(...state.told.map((sentence) => {
        const line = document.createElement("p");
        line.textContent = sentence;
        return line;
      }));
      if (version !== state.version) await renew();
      version = state.version;
    } catch {
      live.textContent = "The server of this page does not answer; it shows what was last told.";
    }
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}

async function main() {
  const script = document.createElement("script");
  script.textContent = await unpacked(document.getElementById("plotly").textContent);
  document.body.append(script);
  await drawPage();
  document.documentElement.dataset.drawn = "all";
  const live = document.getElementById("live");
  if (live) await follow(live);
}

document.addEventListener("DOMContentLoaded", main);
