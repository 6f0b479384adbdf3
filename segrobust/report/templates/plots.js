"use strict";
// Draws the curves anew with plotly.js, in the page's colours; the static figure stays for paper.
for (const figure of document.querySelectorAll("figure[data-plot]")) {
  const { data, layout } = JSON.parse(figure.dataset.plot);
  const style = getComputedStyle(figure), place = document.createElement("div");
  const line = getComputedStyle(document.documentElement).getPropertyValue("--line");
  for (const [name, axis] of Object.entries(layout)) {
    if (/^[xy]axis/.test(name)) Object.assign(axis, { gridcolor: line, zerolinecolor: line, linecolor: line });
  }
  place.className = "plot";
  figure.append(place);
  figure.classList.add("live");
  Plotly.newPlot(place, data, {
    ...layout, paper_bgcolor: "transparent", plot_bgcolor: "transparent",
    font: { color: style.color, family: style.fontFamily, size: 13 }, autosize: true,
  }, { responsive: true, displayModeBar: false });
}
