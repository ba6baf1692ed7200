"use strict";
// Draws each figure when it comes into view, follows the page's theme, sorts tables.
(() => {
  const root = document.documentElement;
  const drawn = new Set();
  const ink = () => getComputedStyle(root).getPropertyValue("--ink").trim();
  const narrow = () => window.innerWidth < 600;

  function draw(place) {
    const figure = JSON.parse(document.getElementById(place.dataset.figure).textContent);
    figure.layout.font.color = ink();
    if (narrow()) {
      figure.layout.margin = { l: 44, r: 8, t: 44, b: 44 };
      figure.layout.title.font.size = 13;
      figure.layout.font.size = 10;
      figure.layout.height += 14 * Math.max(0, figure.data.length - 4);
      figure.layout.dragmode = false; // a finger scrolls the page
    }
    const buttons = figure.layout.scene ? ["orbitRotation", "pan3d", "resetCameraDefault3d", "toImage"] : ["zoom2d", "pan2d", "resetScale2d", "toImage"];
    Plotly.newPlot(place, figure.data, figure.layout, { responsive: true, displaylogo: false, modeBarButtons: [buttons], displayModeBar: narrow() ? false : "hover" });
    place.on("plotly_click", (event) => {
      const number = event.points[0].customdata;
      const target = number == null ? null : document.getElementById("trial-" + number);
      if (target) target.scrollIntoView({ behavior: "smooth" });
    });
    drawn.add(place);
  }

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
    }
  }, { rootMargin: "600px" });
  document.querySelectorAll(".chart").forEach((place) => seen.observe(place));

  addEventListener("beforeprint", () => document.querySelectorAll(".chart").forEach((place) => { if (!drawn.has(place)) { seen.unobserve(place); draw(place); } }));

  function recolour() { drawn.forEach((place) => Plotly.relayout(place, { "font.color": ink() })); }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const button = document.getElementById("theme");
  const say = () => { button.textContent = isDark() ? "Light page" : "Dark page"; };
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; say(); recolour(); });
  say();

  const value = (row, column) => row.cells[column].textContent.replace(/[*,]/g, "");
  function order(a, b) {
    const x = parseFloat(a), y = parseFloat(b);
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a.localeCompare(b);
    return x - y;
  }
  document.querySelectorAll("th").forEach((head) => {
    const sort = () => {
      const body = head.closest("table").tBodies[0], column = head.cellIndex;
      const up = head.getAttribute("aria-sort") !== "ascending";
      head.parentElement.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      [...body.rows].sort((a, b) => (up ? 1 : -1) * order(value(a, column), value(b, column))).forEach((row) => body.append(row));
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
})();
