// The console works without this file. With it: parts of a page are fetched again every few
// seconds, keys move, ids are copied, and charts are drawn after the text.
"use strict";
const root = document.documentElement;
root.classList.add("js");

const busy = (part) =>
  part.contains(document.activeElement) && document.activeElement !== document.body
  || part.querySelector("details[open]") || !getSelection().isCollapsed;

async function refresh(parts) {
  const address = new URL(location.href);
  address.hash = "";
  address.searchParams.set("fragment", parts.map((part) => part.dataset.fragment).join(","));
  const stale = document.querySelector("[data-stale]");
  try {
    const answer = await fetch(address, { credentials: "same-origin", signal: AbortSignal.timeout(10000) });
    if (!answer.ok) throw new Error(String(answer.status));
    const found = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of parts) {
      const fresh = found.querySelector(`[data-fragment="${part.dataset.fragment}"]`);
      if (fresh && !busy(part)) part.replaceChildren(...fresh.childNodes);
    }
    stale.hidden = true;
    const asof = document.querySelector("[data-asof]");
    asof.dateTime = new Date().toISOString();
    asof.textContent = asof.dateTime.slice(0, 19).replace("T", " ") + " UTC";
    if (parts.some((part) => part.querySelector("[data-figure]"))) draw();
  } catch {
    stale.hidden = false;
  }
}

// Every part says how often it wants to be fresh; those that are due go into one request.
function follow() {
  const wait = (part) => 1000 * Number(part.dataset.every || 10);
  const parts = [...document.querySelectorAll("[data-fragment]")];
  const due = new Map(parts.map((part) => [part, Date.now() + wait(part)]));
  const look = async () => {
    const now = Date.now();
    const wanted = document.hidden ? [] : parts.filter((part) => due.get(part) <= now && !busy(part));
    if (wanted.length) await refresh(wanted);
    for (const part of wanted) due.set(part, Date.now() + wait(part));
    setTimeout(look, 1000);
  };
  if (parts.length) setTimeout(look, 1000);
}

// Charts: "$name" in a figure is the stylesheet's --name, so light and dark share one figure.
function tinted(value, style) {
  if (typeof value === "string" && /^\$[a-z0-9-]+$/.test(value)) return style.getPropertyValue("--" + value.slice(1)).trim();
  if (Array.isArray(value)) return value.map((one) => tinted(one, style));
  if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, tinted(one, style)]));
  return value;
}

function draw() {
  if (!window.Plotly) return;
  const style = getComputedStyle(root);
  for (const place of document.querySelectorAll("[data-chart]")) {
    const source = document.querySelector(`[data-figure="${place.dataset.chart}"]`);
    if (!source) continue;
    const figure = tinted(JSON.parse(source.textContent), style);
    const narrow = place.clientWidth < 560;
    const ink = style.getPropertyValue("--ink-2").trim();
    Object.assign(figure.layout, {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
      font: { family: getComputedStyle(document.body).fontFamily, size: 11, color: ink },
      hoverlabel: { bgcolor: style.getPropertyValue("--bg").trim(), bordercolor: style.getPropertyValue("--line-strong").trim(), font: { color: style.getPropertyValue("--ink").trim(), size: 12 } },
    });
    if (narrow) {
      figure.layout.margin.l = 64;
      figure.layout.xaxis.nticks = 4;
    }
    if (!place.classList.contains("drawn")) { place.replaceChildren(); place.classList.add("drawn"); }
    window.Plotly.react(place, figure.data, figure.layout, { displayModeBar: false, responsive: true, showTips: false });
  }
}

function loadCharts() {
  const place = document.querySelector("[data-chart]");
  if (!place) return;
  const script = document.createElement("script");
  script.src = place.dataset.plotly;
  script.onload = draw;
  document.head.append(script);
}

const typing = (target) => target.closest("input, textarea, select, [contenteditable]");

function move(by) {
  const rows = [...document.querySelectorAll("[data-row]")].filter((row) => row.offsetParent);
  if (!rows.length) return;
  const at = rows.findIndex((row) => row.contains(document.activeElement));
  const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + by))];
  const target = next.querySelector("a, summary") || next;
  if (target === next) next.tabIndex = -1;
  target.focus();
  next.scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) {
    if (event.key === "Escape") document.activeElement.blur();
    return;
  }
  const help = document.getElementById("help");
  const keys = {
    "/": () => document.getElementById("search").focus(),
    j: () => move(1),
    k: () => move(-1),
    "?": () => (help.open ? help.close() : help.showModal()),
  };
  if (!keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "copied";
  } catch {
    button.textContent = "not copied";
  }
  setTimeout(() => { button.textContent = "copy"; }, 1500);
});

follow();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
if (document.readyState === "complete") loadCharts();
else addEventListener("load", loadCharts);
