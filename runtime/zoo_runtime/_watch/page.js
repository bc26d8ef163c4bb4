"use strict";
// Asks for the latest answer a few times a second, and for the frame if it is a new one.
const find = (id) => document.getElementById(id);
let number = 0, loading = false;

function draw(state) {
  const online = state.status === "online";
  const lost = { "no camera": "the camera is lost", "no folder": "the folder is gone", offline: "ended" };
  find("state").textContent = online ? "watching" : lost[state.status] || state.status;
  document.body.className = online ? "online" : "lost";
  if (state.number === number) return;
  number = state.number;
  find("label").textContent = state.held || (state.unknown ? "unknown" : "…");
  find("note").textContent = state.error || (state.outlier ? "unlike the training pictures" : "");
  find("when").textContent = `${new Date(state.time).toLocaleTimeString()} · ${state.path}`;
  find("bars").replaceChildren(...(state.bars || []).map(([name, value]) => {
    const row = document.createElement("li"), text = document.createElement("span");
    const percent = document.createElement("span"), bar = document.createElement("progress");
    text.textContent = name;
    percent.textContent = `${(100 * value).toFixed(1)} %`;
    bar.max = 1;
    bar.value = value;
    bar.setAttribute("aria-label", name);
    row.append(text, percent, bar);
    return row;
  }));
  const frame = find("frame");
  // A new address would abort the frame that is still coming, so that a slow connection would show none.
  if (loading) return;
  loading = true;
  frame.onload = () => { loading = false; frame.hidden = false; find("empty").hidden = true; };
  frame.onerror = () => { loading = false; };
  frame.src = `frame.jpg?${number}`;
}

async function ask() {
  try {
    draw(await (await fetch("state.json", { cache: "no-store" })).json());
  } catch {
    find("state").textContent = "no connection to zoo-runtime";
    document.body.className = "lost";
  }
  setTimeout(ask, document.hidden ? 2000 : 250);
}
ask();
