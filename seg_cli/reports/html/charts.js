// Charts: what the page's data describes, drawn by plotly in the colours of the page's theme.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const PLOTLY_OPTIONS = { displayModeBar: false, responsive: true, showTips: false, scrollZoom: false, doubleClick: false };
const drawn = new Map(); // element -> chart

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function isDark() {
  return getComputedStyle(document.documentElement).colorScheme.includes("dark");
}

function shades() {
  return isDark()
    ? [[0, "#1b1f23"], [0.15, "#1d3f57"], [0.5, "#2a7fb0"], [1, "#a9dcff"]]
    : [[0, "#ffffff"], [0.15, "#d3e5f2"], [0.5, "#4c9acb"], [1, "#08306b"]];
}

// A copy of a chart in which every "@name" is a colour of the theme.
function coloured(value) {
  if (typeof value === "string") {
    if (value === "@shades") return shades();
    return /^@(\d|ink|soft|line|strong|panel|accent|bg)$/.test(value) ? color(/\d/.test(value) ? `c${value[1]}` : value.slice(1)) : value;
  }
  if (Array.isArray(value)) return value.length && typeof value[0] === "number" ? value : value.map(coloured);
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, of]) => [key, coloured(of)]));
  }
  return value;
}

// Of a confusion matrix, what hovering says: made here, because for many classes it is megabytes.
function hover(trace) {
  if (!trace.pixels) return trace;
  const { pixels, names, numbers, ...rest } = trace;
  const percent = (share) => (share === null ? "" : `${(100 * share).toFixed(1)} %, `);
  const said = pixels.map((row, y) =>
    row.map((count, x) => `${names[y]} taken for ${names[x]}<br>${percent(rest.z[y][x])}${count.toLocaleString("en")} pixels`)
  );
  return { ...rest, hovertext: said, hoverinfo: "text" };
}

// The numbers in the cells of a heat map, black or white: whichever stands out more.
function written(trace) {
  const scale = shades().map(([at, hex]) => [at, [1, 3, 5].map((from) => parseInt(hex.slice(from, from + 2), 16))]);
  const luminance = (share) => {
    const upper = Math.max(1, scale.findIndex(([at]) => at >= share));
    const [[low, one], [high, other]] = [scale[upper - 1], scale[upper]];
    const linear = one.map((part, band) => ((part + ((other[band] - part) * (share - low)) / (high - low)) / 255) ** 2.2);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  return trace.numbers.flatMap((row, y) => row.map((text, x) => ({
    x, y, text, showarrow: false, font: { size: 11, color: text && luminance(trace.z[y][x]) < 0.18 ? "#ffffff" : "#000000" },
  }))).filter((one) => one.text);
}

function axis(own) {
  return {
    gridcolor: color("line"), zeroline: false, linecolor: color("strong"), tickcolor: color("strong"), fixedrange: true,
    automargin: true, tickfont: { color: color("soft"), size: 12 }, ...own,
    title: own && own.title ? { standoff: 8, font: { color: color("soft"), size: 12.5 }, ...own.title } : undefined,
  };
}

function layoutOf(chart) {
  const { xaxis, yaxis, ...rest } = coloured(chart.layout || {});
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false, hovermode: "closest",
    font: { family: getComputedStyle(document.body).fontFamily, color: color("ink"), size: 12.5 },
    margin: { l: 44, r: 14, t: 24, b: 30 },
    legend: { orientation: "h", y: -0.13, yanchor: "top", x: 0, font: { color: color("soft"), size: 12 } },
    hoverlabel: { bgcolor: color("panel"), bordercolor: color("strong"), font: { color: color("ink"), size: 13 }, align: "left", namelength: -1 },
    ...rest, xaxis: axis(xaxis), yaxis: axis(yaxis),
  };
}

function draw(element, chart) {
  if (!window.Plotly) return;
  drawn.set(element, chart);
  element.querySelector(".waiting")?.remove();
  element.style.height = `${chart.height}px`;
  if (chart.alt) element.setAttribute("aria-label", chart.alt);
  const data = chart.data.map((trace) => hover(coloured(trace)));
  const layout = layoutOf(chart);
  if (chart.data[0].numbers) layout.annotations = written(chart.data[0]);
  window.Plotly.react(element, data, layout, PLOTLY_OPTIONS);
}

function redraw() {
  for (const [element, chart] of drawn) draw(element, chart);
}

// The library lies compressed in the page. It is run as a script of the page, whose hash the page's policy allows.
async function loadPlotly() {
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

const chartsReady = loadPlotly().then(
  () => {
    for (const element of document.querySelectorAll("[data-chart]")) draw(element, DATA.charts[element.dataset.chart]);
  },
  () => {
    for (const waiting of document.querySelectorAll(".plot .waiting")) {
      waiting.textContent = "This browser is too old for the charts (it lacks DecompressionStream). The numbers are in the tables.";
    }
  }
);
