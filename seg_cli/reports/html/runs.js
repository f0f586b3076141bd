// The page of many runs: filters and columns of the leaderboard, curves, parallel coordinates, two runs image by image.
"use strict";

const MOST_CURVES = 12;
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const SYMBOLS = ["circle", "square", "diamond", "cross", "x", "triangle-up"];
const MOST_CHANGED = 12;

function safe(text) { // the charting library reads tags of its own
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function byId(id) {
  return document.getElementById(id);
}

// ---- the leaderboard

function boardRows() {
  return [...byId("leaderboard").tBodies[0].rows];
}

function filterBoard() {
  const wanted = [...document.querySelectorAll("select[data-filter]")].filter((select) => select.value);
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  let left = 0;
  for (const row of boardRows()) {
    const fits = wanted.every((select) => {
      const cell = [...row.cells].find((one) => one.dataset.key === select.dataset.key);
      return `=${cell.dataset.text}` === select.value || (select.value === "=" && cell.dataset.text === "–");
    });
    const text = row.textContent.toLowerCase();
    row.hidden = !(fits && words.every((word) => text.includes(word)));
    left += !row.hidden;
  }
  const all = DATA.runs.length;
  byId("count").textContent = left === all ? `${all} runs` : `${left} of ${all} runs`;
  say(byId("count").textContent);
  drawParallel();
}

function showColumn(id, shown) {
  const table = byId("leaderboard");
  const heading = [...table.tHead.rows[0].cells].find((cell) => cell.dataset.of === id);
  for (const row of table.rows) row.cells[heading.cellIndex].hidden = !shown;
}

// ---- curves

function drawCurves() {
  if (!byId("curve-plot")) return;
  const picked = boardRows().map((row) => row.querySelector("[data-pick]")).filter((box) => box.checked)
    .map((box) => DATA.runs[Number(box.dataset.pick)]);
  const key = byId("curve-of").value;
  const shown = picked.filter((run) => run.curve[key]).slice(0, MOST_CURVES);
  byId("curve-note").textContent = picked.length > MOST_CURVES
    ? `The first ${MOST_CURVES} of ${picked.length} runs that are checked in the leaderboard.`
    : `The ${shown.length} runs that are checked in the leaderboard.`;
  draw(byId("curve-plot"), {
    data: shown.map((run, number) => {
      const points = run.curve.epoch.map((epoch, place) => [epoch, run.curve[key][place]]).filter(([, value]) => value !== null);
      return {
        x: points.map(([epoch]) => epoch), y: points.map(([, value]) => value), name: safe(run.label),
        mode: points.length < 15 ? "lines+markers" : "lines",
        line: { color: `@${number % 6}`, dash: DASHES[Math.floor(number / 6) % 6], width: 2 },
        marker: { symbol: SYMBOLS[number % 6], size: 6 },
        hovertemplate: "%{y:.4g}<extra>%{fullData.name}, epoch %{x}</extra>",
      };
    }),
    alt: `${key} by epoch of ${shown.map((run) => run.label).join("; ")}`,
    height: 340 + 20 * Math.ceil(shown.length / 2),
    layout: { showlegend: true, xaxis: { showgrid: false, tickformat: "d" }, yaxis: { rangemode: "tozero" } },
  });
}

// ---- parallel coordinates

function drawParallel() {
  if (!byId("parallel")) return;
  const visible = new Set(boardRows().filter((row) => !row.hidden).map((row) => Number(row.dataset.run)));
  const { axes, runs } = DATA;
  const score = axes[axes.length - 1].places;
  const order = [...visible].filter((run) => score[run] !== null).sort((a, b) => score[a] - score[b]);
  const colors = ["@3", "@4", "@0", "@2", "@1"]; // the worst fifth first
  const traces = colors.map((of, fifth) => {
    const own = order.filter((_, place) => Math.floor((5 * place) / order.length) === fifth);
    const [x, y, text] = [[], [], []];
    for (const run of own) {
      axes.forEach((one, place) => {
        if (one.places[run] === null) return;
        x.push(place); y.push(one.places[run]); text.push(`${safe(runs[run].label)}<br>mIoU ${runs[run].score?.toFixed(3)}`);
      });
      x.push(null); y.push(null); text.push("");
    }
    const best = fifth === colors.length - 1;
    return {
      x, y, text, mode: "lines", hoverinfo: "text", opacity: best ? 1 : 0.65, connectgaps: false,
      name: best ? "best fifth" : fifth === 0 ? "worst fifth" : `fifth ${fifth + 1}`,
      line: { color: of, width: best ? 3 : 1.3, dash: fifth === 0 ? "dot" : fifth === 1 ? "dash" : "solid" },
    };
  }).filter((trace) => trace.x.length);
  const labels = axes.flatMap((one, place) => one.ticks.map(([at, text]) => ({
    x: place, y: at, text: safe(text), showarrow: false, xanchor: place === axes.length - 1 ? "left" : "right",
    xshift: place === axes.length - 1 ? 6 : -6, font: { size: 11.5, color: "@soft" }, bgcolor: "@bg", borderpad: 2, opacity: 0.92,
  })));
  byId("parallel").style.minWidth = `${130 * axes.length}px`;
  draw(byId("parallel"), {
    data: traces,
    alt: `Parallel coordinates of ${order.length} runs over ${axes.map((one) => one.name).join(", ")}`,
    height: 470,
    layout: {
      showlegend: true, margin: { l: 110, r: 60, t: 20, b: 40 },
      xaxis: {
        tickmode: "array", tickvals: axes.map((_, place) => place), ticktext: axes.map((one) => safe(one.name)), side: "top",
        range: [-0.02, axes.length - 0.98], gridcolor: "@strong", showline: false, tickfont: { size: 13, color: "@ink" },
      },
      yaxis: { visible: false, range: [-0.05, 1.05] },
      annotations: labels,
    },
  });
}

// ---- two runs

function drawComparison() {
  if (!byId("run-a")) return;
  const [a, b] = [DATA.runs[Number(byId("run-a").value)], DATA.runs[Number(byId("run-b").value)]];
  const comparable = a.set !== null && a.set === b.set;
  byId("comparison").hidden = !comparable;
  byId("side-by-side").replaceChildren();
  if (!comparable) {
    byId("compare-note").textContent = "These two have not the same images and classes, or their counts could not be read.";
    return;
  }
  const names = DATA.sets[a.set];
  const both = names.map((name, place) => ({ name, a: a.images[place], b: b.images[place] }))
    .filter((one) => one.a !== null && one.b !== null);
  const better = both.filter((one) => one.b > one.a).length;
  const worse = both.filter((one) => one.b < one.a).length;
  byId("compare-note").textContent = `Of ${both.length} images B is better in ${better} and worse in ${worse}.`;
  draw(byId("scatter"), {
    data: [
      { x: [0, 1], y: [0, 1], mode: "lines", line: { color: "@soft", dash: "dash", width: 1 }, hoverinfo: "skip" },
      {
        x: both.map((one) => one.a), y: both.map((one) => one.b), mode: "markers", text: both.map((one) => safe(one.name)),
        marker: { color: both.map((one) => (one.b >= one.a ? color("c0") : color("c1"))), size: 8, opacity: 0.7,
          symbol: both.map((one) => (one.b >= one.a ? "circle" : "diamond")) },
        hovertemplate: "%{text}<br>A %{x:.3f}, B %{y:.3f}<extra></extra>",
      },
    ],
    alt: byId("compare-note").textContent,
    height: 420,
    layout: {
      showlegend: false, xaxis: { title: { text: "A" }, range: [0, 1] }, yaxis: { title: { text: "B" }, range: [0, 1] },
      annotations: [
        { x: 0.03, y: 0.99, text: "● B better", showarrow: false, xanchor: "left", yanchor: "top" },
        { x: 0.99, y: 0.03, text: "◆ A better", showarrow: false, xanchor: "right", yanchor: "bottom" },
      ],
    },
  });
  const changed = both.filter((one) => one.a !== one.b).sort((one, other) => Math.abs(other.b - other.a) - Math.abs(one.b - one.a));
  byId("changed").tBodies[0].replaceChildren(...changed.slice(0, MOST_CHANGED).map((one) => {
    const sign = one.b > one.a ? "▲ +" : "▼ −";
    const numbers = [one.a.toFixed(3), one.b.toFixed(3), sign + Math.abs(one.b - one.a).toFixed(3)];
    return element("tr", {}, element("th", { scope: "row" }, one.name), ...numbers.map((text) => element("td", { className: "n" }, text)));
  }));
  showPictures(a, b);
}

function showPictures(a, b) {
  const shared = DATA.pictures[a.set];
  const names = Object.keys(shared).filter((name) => a.pictures[name] && b.pictures[name]);
  if (!names.length) return;
  const rows = names.map((name) => {
    const four = [[shared[name].image, `image ${name}`], [shared[name].truth, "truth"], [a.pictures[name], `A: ${a.label}`], [b.pictures[name], `B: ${b.label}`]];
    return element("div", { className: "pair" }, ...four.map(([src, caption]) =>
      element("figure", {}, element("img", { src, alt: `${caption} of ${name}` }), element("figcaption", {}, caption))));
  });
  byId("side-by-side").replaceChildren(element("h3", {}, "The same images"), ...rows);
}

if (byId("leaderboard")) {
  for (const select of document.querySelectorAll("select[data-filter]")) select.addEventListener("change", filterBoard);
  byId("search").addEventListener("input", filterBoard);
  byId("clear").addEventListener("click", () => {
    for (const select of document.querySelectorAll("select[data-filter]")) select.value = "";
    byId("search").value = "";
    filterBoard();
  });
  for (const box of document.querySelectorAll("[data-column]")) {
    box.addEventListener("change", () => showColumn(box.dataset.column, box.checked));
  }
  for (const box of document.querySelectorAll("[data-pick]")) box.addEventListener("change", drawCurves);
  byId("curve-of")?.addEventListener("change", drawCurves);
  for (const id of ["run-a", "run-b"]) byId(id)?.addEventListener("change", drawComparison);
  chartsReady.then(() => {
    drawCurves();
    drawParallel();
    drawComparison();
  });
}
