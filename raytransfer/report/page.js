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

async function main() {
  startNetworks();
  onPick.push(tellPicked);
  const script = document.createElement("script");
  script.textContent = await unpacked(document.getElementById("plotly").textContent);
  document.body.append(script);
  for (const figure of document.querySelectorAll("figure[data-figure]")) {
    await startFigure(figure);
    // The reader sees each figure before the next one is drawn.
    await new Promise(requestAnimationFrame);
  }
  document.documentElement.dataset.drawn = "all";
}

document.addEventListener("DOMContentLoaded", main);
