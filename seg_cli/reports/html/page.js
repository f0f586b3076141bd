// What every page has: the switch of themes, tables that sort, and what printing needs.
"use strict";

function say(text) {
  document.getElementById("say").textContent = text;
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made && key !== "list") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children); // text is put in as text, whatever it holds
  return made;
}

// ---- theme

const THEMES = ["auto", "light", "dark"];
const themeButton = document.getElementById("theme");

function setTheme(theme) {
  if (theme === "auto") document.documentElement.removeAttribute("data-theme");
  else document.documentElement.dataset.theme = theme;
  themeButton.textContent = `Theme: ${theme}`;
  redraw();
}

function storedTheme(value) {
  try {
    if (value) localStorage.setItem("segrun-theme", value);
    return localStorage.getItem("segrun-theme");
  } catch {
    return value; // a browser may keep nothing for files
  }
}

let theme = THEMES.includes(storedTheme()) ? storedTheme() : "auto";
themeButton.hidden = false;
themeButton.addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  storedTheme(theme);
  setTheme(theme);
});
setTheme(theme);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

// ---- tables

function valueOf(cell) {
  return cell.dataset.v === undefined ? cell.textContent.trim() : Number(cell.dataset.v);
}

// Numbers by size, text by the alphabet; places without a value come last either way.
function compareCells(one, other, sign) {
  const [a, b] = [valueOf(one), valueOf(other)];
  const [emptyA, emptyB] = [a === "–" || a === "", b === "–" || b === ""];
  if (emptyA || emptyB) return emptyA - emptyB;
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  return sign * String(a).localeCompare(String(b), "en", { numeric: true });
}

function sortTable(table, heading) {
  const column = heading.cellIndex;
  const rows = [...table.tBodies[0].rows];
  const before = heading.getAttribute("aria-sort");
  const numeric = rows.some((row) => row.cells[column].dataset.v !== undefined);
  const first = numeric ? "descending" : "ascending";
  const order = before ? (before === "ascending" ? "descending" : "ascending") : first;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  rows.sort((a, b) => compareCells(a.cells[column], b.cells[column], sign));
  table.tBodies[0].append(...rows);
  say(`Sorted by ${heading.textContent.trim()}, ${order}`);
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const heading of table.tHead.rows[0].cells) {
    if (heading.dataset.fixed !== undefined) continue;
    const label = heading.textContent;
    heading.replaceChildren(element("button", { type: "button" }, label));
    heading.firstChild.addEventListener("click", () => sortTable(table, heading));
  }
}

// ---- print: everything is opened, in a light theme and as wide as the paper

const closed = [];
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details.print-open:not([open])")) {
    details.open = true;
    closed.push(details);
  }
  document.documentElement.dataset.theme = "light";
  for (const [plot, chart] of drawn) {
    draw(plot, chart);
    window.Plotly.relayout(plot, { width: Math.min(plot.clientWidth, 690), autosize: false });
  }
});
addEventListener("afterprint", () => {
  for (const details of closed.splice(0)) details.open = false;
  for (const plot of drawn.keys()) window.Plotly.purge(plot);
  setTheme(theme);
});
