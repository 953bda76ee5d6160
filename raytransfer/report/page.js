"use strict";

// Draws each figure from the JSON beside it, in the colours of the reader's light or dark mode.

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const narrow = window.matchMedia("(max-width: 40rem)");

function themed(layout, entries) {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const copy = structuredClone(layout);
  copy.autosize = true;
  copy.paper_bgcolor = copy.plot_bgcolor = "rgba(0, 0, 0, 0)";
  copy.font = { family: getComputedStyle(document.body).fontFamily, size: 13, color: color("--ink") };
  copy.hoverlabel = {
    ...copy.hoverlabel, bgcolor: color("--card"), bordercolor: color("--soft"),
    font: { color: color("--ink"), size: 12.5 },
  };
  copy.modebar = { bgcolor: "rgba(0, 0, 0, 0)", color: color("--soft"), activecolor: color("--accent") };
  for (const name of Object.keys(copy).filter((key) => /^[xy]axis\d*$/.test(key))) {
    Object.assign(copy[name], {
      gridcolor: color("--grid"), linecolor: color("--rule"), tickcolor: color("--rule"),
      zerolinecolor: color("--soft"),
    });
  }
  // A legend takes its lines from the plot's height: give them back.
  copy.height += 20 * (narrow.matches ? entries : Math.floor(entries / 6));
  if (narrow.matches) {
    copy.margin = { ...copy.margin, l: 40, r: 6 };
    copy.legend = { ...copy.legend, x: -0.08 };
    copy.font.size = 12;
    for (const note of copy.annotations ?? []) note.font = { ...note.font, size: 11 };
  }
  return copy;
}

function start(figure) {
  const id = figure.dataset.figure;
  const plot = figure.querySelector(".plot");
  const views = JSON.parse(figure.querySelector("script").textContent);
  const chooser = figure.querySelector("select[data-view]");
  const menus = [...figure.querySelectorAll("select[data-menu]")];

  function seen(trace) {
    return menus.every((menu) => {
      const value = trace.meta[menu.dataset.menu];
      const always = menu.dataset.menu === "series" && value === "base";
      return always || menu.value === "" || menu.value === value;
    });
  }

  function draw() {
    const view = views[chooser ? chooser.selectedIndex : 0];
    const data = menus.length
      ? view.data.map((trace) => ({ ...trace, visible: seen(trace) }))
      : view.data;
    const named = data.filter((trace) => trace.showlegend !== false && trace.visible !== false);
    return Plotly.react(plot, data, themed(view.layout, named.length), {
      responsive: true,
      displaylogo: false,
      // plotly.js offers to upload the chart by default; this page sends nothing anywhere.
      plotlyServerURL: "",
      modeBarButtonsToRemove: ["sendChartToCloud", "select2d", "lasso2d", "autoScale2d"],
      toImageButtonOptions: { format: "svg", filename: id },
    });
  }

  for (const select of figure.querySelectorAll("select")) select.addEventListener("change", draw);
  dark.addEventListener("change", draw);
  return draw();
}

async function unpack(id) {
  const packed = atob(document.getElementById(id).textContent);
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.body.append(script);
}

async function main() {
  await unpack("plotly");
  for (const figure of document.querySelectorAll("figure[data-figure]")) {
    await start(figure);
    // The reader sees each figure before the next one is drawn.
    await new Promise(requestAnimationFrame);
  }
}

main();
