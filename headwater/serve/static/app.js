// The page of similar cases. Its state is in the address after '#', which browsers keep to themselves: which case was
// asked with, filters, and how many cases to show. Words and images travel in the body of requests only.

const $ = (id) => document.getElementById(id);
const state = {
  info: null, query: fresh(), preview: null, name: "", filters: {}, k: 20, features: null, onePer: true, notOwn: true,
  hits: [], answer: null, findings: [], revealed: false, heat: null, ticket: 0, askedFor: null, ownCall: null,
};

let begin;
const started = new Promise((resolve) => { begin = resolve; });  // once it is known what is served

function fresh() {
  return { case: null, upload: null, text: "", region: null, weight: 0.5, more: [], less: [] };
}

// Requests

async function ask(path, body, type = "application/json") {
  const how = body === undefined ? {} : { method: "POST", headers: { "content-type": type }, body: type === "application/json" ? JSON.stringify(body) : body };
  let answer;
  try {
    answer = await fetch(path, how);
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  if (!answer.ok) {
    let words = `The server answered ${answer.status}.`;
    try { words = (await answer.json()).error ?? words; } catch { /* no JSON */ }
    throw new Error(words);
  }
  return answer.json();
}

function told(error) {
  const words = error instanceof Error ? error.message : String(error);
  $("error").textContent = words.charAt(0).toUpperCase() + words.slice(1);
  $("error").hidden = false;
}

function cleared() { $("error").hidden = true; }

// State in the address

function remember(push) {
  const kept = {};
  if (state.query.case) kept.case = state.query.case;
  if (state.query.case && state.query.region) kept.region = state.query.region.map((x) => x.toFixed(4)).join(",");
  if (state.query.more.length) kept.more = state.query.more.join(",");
  if (state.query.less.length) kept.less = state.query.less.join(",");
  if (Object.keys(state.filters).length) kept.filters = JSON.stringify(state.filters);
  if (state.k !== 20) kept.k = String(state.k);
  if (state.features !== first()) kept.in = state.features;
  if (!state.onePer) kept.all = "1";
  if (!state.notOwn) kept.own = "1";
  const hash = "#" + new URLSearchParams(kept).toString();
  const entry = { query: structuredClone(state.query), preview: state.preview, name: state.name };
  if (push && (hash !== location.hash || push === "always")) history.pushState(entry, "", hash);
  else history.replaceState(entry, "", hash);
}

function recall(entry) {
  const kept = new URLSearchParams(location.hash.slice(1));
  state.query = entry?.query ?? fresh();
  state.preview = entry?.preview ?? null;
  state.name = entry?.name ?? "";
  if (!entry) {
    state.query.case = kept.get("case");
    const region = kept.get("region")?.split(",").map(Number);
    state.query.region = region?.length === 4 && region.every((x) => x >= 0 && x <= 1) ? region : null;
    state.query.more = kept.get("more")?.split(",").filter(Boolean) ?? [];
    state.query.less = kept.get("less")?.split(",").filter(Boolean) ?? [];
  }
  if (state.query.case && !state.preview) {
    state.preview = `/api/cases/${encodeURIComponent(state.query.case)}/image?size=large`;
    state.name = "stored case";
  }
  state.filters = filtersOf(kept.get("filters"));
  state.k = Number(kept.get("k")) || 20;
  state.features = kept.get("in") && kept.get("in") in state.info.features ? kept.get("in") : first();
  state.onePer = !kept.has("all");
  state.notOwn = !kept.has("own");
}

// Filters of an address, which somebody else may have written: lists of values that this store has.
function filtersOf(text) {
  const found = {};
  try {
    for (const [name, values] of Object.entries(JSON.parse(text ?? "{}") ?? {})) {
      const known = new Set((state.info.filters[name] ?? []).map(({ value }) => value));
      const kept = Array.isArray(values) ? values.filter((value) => known.has(value)) : [];
      if (kept.length) found[name] = kept;
    }
  } catch { /* no filters */ }
  return found;
}

const first = () => Object.keys(state.info.features)[0];

// Drawing

function element(kind, settings = {}, ...children) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(settings)) {
    if (name in made) made[name] = value; else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function drawQuery() {
  const has = state.preview !== null;
  $("invite").hidden = has;
  $("stage").hidden = !has;
  $("stage-tools").hidden = !has;
  $("region-hint").hidden = !has || state.query.region !== null;
  $("drop").classList.toggle("has", has);
  if (has && $("query-image").getAttribute("src") !== state.preview) $("query-image").src = state.preview;
  if (!has) $("query-image").removeAttribute("src");
  $("query-name").textContent = state.name;
  $("clear-region").hidden = state.query.region === null;
  drawRegion(state.query.region);
  if ($("text").value !== state.query.text) $("text").value = state.query.text;
  $("weight").value = state.query.weight;
  $("weight-row").hidden = !(has && state.query.text.trim());
  const { more, less } = state.query;
  $("refine").hidden = !more.length && !less.length;
  $("refine-text").textContent = [more.length ? `more like ${more.length}` : "", less.length ? `less like ${less.length}` : ""].filter(Boolean).join(", ");
  const takes = state.info.features[state.features].text;
  $("words").hidden = !takes && !state.query.text;  // words typed for another encoder stay, to be removed
  $("features").value = state.features;
  $("one-per").checked = state.onePer;
  $("not-own").checked = state.notOwn;
  $("k").value = String(state.k);
  drawFilters();
  drawHeat();
}

function drawRegion(region) {
  $("region").hidden = region === null;
  if (region === null) return;
  const [left, top, right, bottom] = region;
  Object.assign($("region").style, { left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%` });
}

function drawFilters() {
  const chosen = Object.values(state.filters).flat().length;
  $("n-filters").textContent = chosen ? ` (${chosen})` : "";
  const fields = Object.entries(state.info.filters).map(([name, values]) => element("fieldset", {}, element("legend", { textContent: name }),
    element("div", { className: "values" }, ...values.map(({ value, n }) => {
      const on = state.filters[name]?.includes(value) ?? false;
      const button = element("button", { type: "button", className: "value", "aria-pressed": String(on) }, value, element("small", { textContent: n.toLocaleString("en") }));
      button.onclick = () => { toggleFilter(name, value); };
      return button;
    }))));
  $("filters").replaceChildren(...fields);
}

function toggleFilter(name, value) {
  const now = new Set(state.filters[name] ?? []);
  if (!now.delete(value)) now.add(value);
  if (now.size) state.filters[name] = [...now]; else delete state.filters[name];
  go();
}

function drawAnswer() {
  const { answer } = state;
  $("empty").hidden = answer !== null;
  $("answer-tools").hidden = answer === null;
  $("notes").replaceChildren(...(answer?.notes ?? []).map((line) => element("p", { className: "note", textContent: line })));
  drawLabels(answer?.labels);
  $("count").textContent = answer ? `${answer.hits.length} most similar of ${state.info.n_cases.toLocaleString("en")} cases` : "";
  $("grid").replaceChildren(...state.hits.map(card));
}

function drawLabels(labels) {
  $("labels").hidden = !labels;
  if (!labels) return;
  const rows = labels.labels.filter((row) => row.n > 0 || row.base > 0.02).map((row) => element("div", { className: "label-row" },
    element("span", { textContent: row.label }),
    element("span", { className: "bars", title: `${row.n} of ${labels.of}; in the store ${percent(row.base)}` },
      element("i", { style: `width:${100 * row.n / Math.max(labels.of, 1)}%` }), element("b", { style: `left:${100 * row.base}%` })),
    element("span", { className: "n", textContent: `${row.n} of ${labels.of} · ${percent(row.base)}` })));
  const vote = labels.vote;
  const said = vote ? `The most frequent label of ${vote.k} such neighbours was right for ${percent(vote.accuracy)} of ${vote.n} stored cases, each without ${state.info.patients ? "its own patient" : "itself (the column of patients is not known, so neighbours may be of the same patient)"}; always saying the most frequent label is right for ${percent(vote.base)}.`
    : "How often such a vote is right is still being measured.";
  $("labels").replaceChildren(element("h2", { textContent: `${labels.column} of the ${labels.of} nearest, beside the whole store (black line)` }), ...rows,
    element("p", { className: "said", textContent: said }));
}

const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

const columnsOf = (hit) => Object.entries(hit.columns).filter(([, value]) => value !== null);

function opener(hit, place, title) {
  const inside = hit.image ? element("img", { src: `/api/cases/${encodeURIComponent(hit.case)}/image`, alt: `Case ${place + 1}`, decoding: "async", loading: place < 24 ? "eager" : "lazy", draggable: false })
    : element("span", { className: "words", textContent: columnsOf(hit).map(([, value]) => value).join(", ") || `case ${place + 1}` });
  const open = element("button", { type: "button", className: "open", title, "aria-label": `Search from case ${place + 1}` }, inside);
  open.onclick = () => from(hit);
  return open;
}

function drawExamples() {
  $("examples").hidden = !state.info.examples.length;
  $("example-list").replaceChildren(...state.info.examples.map((hit, place) => opener(hit, place, "Search from this case")));
}

function card(hit, place) {
  const columns = columnsOf(hit);
  const open = opener(hit, place, "Search from this case (Enter); Space enlarges");
  const more = element("button", { type: "button", textContent: "+", title: "More like this", "aria-label": "More like this", "aria-pressed": String(state.query.more.includes(hit.case)) });
  const less = element("button", { type: "button", textContent: "−", title: "Less like this", "aria-label": "Less like this", "aria-pressed": String(state.query.less.includes(hit.case)) });
  const look = element("button", { type: "button", textContent: "⤢", title: "Enlarge", "aria-label": "Enlarge" });
  more.onclick = () => refine("more", hit.case);
  less.onclick = () => refine("less", hit.case);
  look.onclick = () => enlarge(place);
  const under = element("div", { className: "under" }, element("div", { className: "score" }, element("span", { textContent: hit.score.toFixed(3), title: "Similarity (cosine)" }), element("span", { className: "tools" }, more, less, hit.image ? look : null)),
    ...columns.map(([name, value]) => element("div", { className: "column", title: `${name}: ${value}` }, element("b", { textContent: `${name} ` }), String(value))));
  const made = element("article", { className: "case", role: "listitem", tabIndex: -1 }, open, under);
  made.dataset.place = place;
  return made;
}

// Searching

async function go(push = true) {
  remember(push);
  drawQuery();
  const has = state.query.case || state.query.upload || state.query.text.trim();
  if (!has) {
    state.answer = null; state.hits = []; state.findings = [];
    cleared(); drawAnswer(); drawFindings();
    return;
  }
  const ticket = ++state.ticket;
  $("drop").classList.add("busy");
  const query = { ...state.query, text: state.query.text.trim() || null };
  const search = ask("/api/search", { query, features: state.features, k: state.k, filters: state.filters, one_per_patient: state.onePer, exclude_own_patient: state.notOwn });
  const asked = JSON.stringify([query.case, query.upload, query.text, query.region]);
  const again = asked !== state.askedFor;
  state.askedFor = asked;
  if (again) { state.findings = []; state.revealed = !state.info.blind; state.heat = null; state.ownCall = null; $("own-call").value = ""; drawHeat(); drawFindings(); }
  const finding = again && state.revealed && state.info.runs.length ? ask("/api/findings", { query: { ...query, more: [], less: [] } }) : null;
  try {
    const answer = await search;
    if (ticket !== state.ticket) return;
    cleared();
    state.answer = answer;
    state.hits = answer.hits;
    drawAnswer();
    drawFindings();
    if (answer.labels && !answer.labels.vote) setTimeout(() => laterVote(ticket, 6), 1500);
  } catch (error) {
    if (ticket === state.ticket) { told(error); state.answer = null; state.hits = []; drawAnswer(); }
  } finally {
    if (ticket === state.ticket) $("drop").classList.remove("busy");
  }
  if (finding) {
    try {
      const found = await finding;
      if (ticket === state.ticket) { state.findings = found; drawFindings(); }
    } catch (error) {
      if (ticket === state.ticket) told(error);
    }
  }
}

async function laterVote(ticket, times) {
  if (ticket !== state.ticket || times === 0) return;
  try {
    const query = { ...state.query, text: state.query.text.trim() || null };
    const answer = await ask("/api/search", { query, features: state.features, k: 10, filters: state.filters, one_per_patient: state.onePer, exclude_own_patient: state.notOwn });
    if (ticket !== state.ticket) return;
    if (answer.labels?.vote) drawLabels(answer.labels); else setTimeout(() => laterVote(ticket, times - 1), 4000);
  } catch { /* the first answer stays */ }
}

function from(hit) {
  state.query = { ...fresh(), case: hit.case };
  state.preview = hit.image ? `/api/cases/${encodeURIComponent(hit.case)}/image?size=large` : null;
  state.name = "stored case";
  window.scrollTo({ top: 0 });
  go();
}

function refine(how, reference) {
  const other = how === "more" ? "less" : "more";
  const now = new Set(state.query[how]);
  if (!now.delete(reference)) now.add(reference);
  state.query[how] = [...now];
  state.query[other] = state.query[other].filter((one) => one !== reference);
  go();
}

async function take(file) {
  if (!file) return;
  await started;
  cleared();
  if (file.size > state.info.max_bytes) { told(`The file has more than ${Math.round(state.info.max_bytes / 1e6)} MB.`); return; }
  $("drop").classList.add("busy");
  try {
    const made = await ask("/api/uploads", file, "application/octet-stream");
    state.query = { ...fresh(), upload: made.upload, text: state.query.text, weight: state.query.weight };
    state.preview = `/api/uploads/${encodeURIComponent(made.upload)}`;
    state.name = `${file.name || "pasted image"}, ${made.width} × ${made.height}`;
    await go("always");
  } catch (error) {
    told(error);
  } finally {
    $("drop").classList.remove("busy");
  }
}

// Findings

function drawFindings() {
  const { findings, info } = state;
  const hidden = !state.revealed && state.answer !== null;
  $("findings").hidden = !info.runs.length || (!findings.length && !hidden);
  if ($("findings").hidden) return;
  $("blind").hidden = !hidden;
  $("finding-list").hidden = hidden;
  $("agree").hidden = hidden || !findings.some((found) => found.scores?.length);
  $("agreed").textContent = "";
  for (const button of document.querySelectorAll("[data-agree]")) button.setAttribute("aria-pressed", "false");
  if (hidden) {
    const names = [...new Set(info.runs.flatMap((run) => run.classes))].slice(0, 20);
    $("own-calls").replaceChildren(...names.map((name) => {
      const button = element("button", { type: "button", className: "value", textContent: name });
      button.onclick = () => { $("own-call").value = name; };
      return button;
    }));
    return;
  }
  $("finding-list").replaceChildren(...findings.map(drawRun));
}

function drawRun(found) {
  const run = state.info.runs.find((one) => one.name === found.run);
  const out = element("div", { className: "run" }, element("h3", { textContent: `${run.name} · ${run.head}${run.calibrated ? ", calibrated" : ", not calibrated"}` }));
  if (found.error) { out.append(element("p", { className: "said", textContent: found.error })); return out; }
  for (const { name, probability, in_set: inSet } of found.scores.slice(0, 8)) {
    const row = element("button", { type: "button", className: `finding${inSet ? " in-set" : ""}`, title: run.heat_map ? "Show what supports it" : name },
      element("span", { className: "track" }, element("span", { className: "fill", style: `width:${100 * probability}%` }), element("span", { className: "name", textContent: name })),
      element("span", { className: "p", textContent: probability.toFixed(2) }));
    if (run.heat_map) row.onclick = () => showHeat(run.name, name); else row.disabled = true;
    out.append(row);
  }
  const said = (words, warn = false) => out.append(element("p", { className: `said${warn ? " warn" : ""}`, textContent: words }));
  if (!found.scores.length) for (const [name, value] of Object.entries(found.values)) said(`${name}: ${typeof value === "number" ? value.toPrecision(4) : value}`);
  if (found.decision !== null && run.rule) said(`Decision: ${found.decision} (${run.rule})`);
  if (found.set !== null) said(found.set.length ? `● prediction set: ${found.set.join(", ")}; it misses ${percent(run.conformal)} of new cases or fewer` : "● prediction set: empty");
  if (found.seen_in_training) said(`Seen in training (${found.seen_in_training}): this says nothing of how right the run is.`, true);
  if (found.unlike_training !== null) said(found.unlike_training > 95 ? `Unlike the training data: farther than ${Math.floor(found.unlike_training)} % of its cases. Trust this less.` : `Like the training data: ${Math.round(100 - found.unlike_training)} % of its own cases are farther away.`, found.unlike_training > 95);
  return out;
}

async function showHeat(run, target) {
  try {
    const query = { ...state.query, text: state.query.text.trim() || null, more: [], less: [] };
    state.heat = await ask("/api/heat-map", { query, run, target });
    drawHeat();
  } catch (error) { told(error); }
}

function drawHeat() {
  const { heat } = state;
  $("heat").hidden = heat === null;
  $("heat-tools").hidden = heat === null;
  if (heat === null) return;
  let [left, top, right, bottom] = heat.region;
  if (state.query.region) {
    const [x0, y0, x1, y1] = state.query.region;
    [left, right] = [x0 + left * (x1 - x0), x0 + right * (x1 - x0)];
    [top, bottom] = [y0 + top * (y1 - y0), y0 + bottom * (y1 - y0)];
  }
  $("heat").src = heat.picture;
  $("heat").alt = `What supports ${heat.target}`;
  Object.assign($("heat").style, { left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%`, opacity: $("opacity").value });
}

async function record(body, done) {
  cleared();
  try {
    const query = { case: state.query.case, upload: state.query.upload, text: state.query.text.trim() || null };
    await ask("/api/calls", { query, ...body });
    done();
  } catch (error) { told(error); }
}

function reveal() {
  const own = $("own-call").value.trim();
  if (!own) { $("own-call").focus(); return; }
  record({ own_call: own }, async () => {
    const ticket = state.ticket;
    state.revealed = true;
    state.ownCall = own;
    try {
      const query = { ...state.query, text: state.query.text.trim() || null, more: [], less: [] };
      const found = await ask("/api/findings", { query });
      if (ticket === state.ticket) { state.findings = found; drawFindings(); }
    } catch (error) { told(error); }
  });
}

function agree(button) {
  const found = state.findings.find((one) => one.scores?.length);
  const [best] = found.scores;
  record({ own_call: state.ownCall ?? "not recorded before", run: found.run, finding: best.name, probability: best.probability, agreement: button.dataset.agree }, () => {
    for (const one of document.querySelectorAll("[data-agree]")) one.setAttribute("aria-pressed", String(one === button));
    $("agreed").textContent = "recorded";
  });
}

// A region of the query

let drag = null;

function shareOf(event) {
  const box = $("query-image").getBoundingClientRect();
  return [Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)), Math.min(1, Math.max(0, (event.clientY - box.top) / box.height))];
}

$("drop").addEventListener("pointerdown", (event) => {
  if (state.preview === null || event.button !== 0) return;
  event.preventDefault();
  $("drop").setPointerCapture(event.pointerId);
  drag = { start: shareOf(event), region: null };
});
$("drop").addEventListener("pointermove", (event) => {
  if (!drag) return;
  const [x, y] = shareOf(event);
  const [x0, y0] = drag.start;
  drag.region = [Math.min(x, x0), Math.min(y, y0), Math.max(x, x0), Math.max(y, y0)];
  drawRegion(drag.region);
});
$("drop").addEventListener("pointerup", () => {
  if (!drag) return;
  const { region } = drag;
  drag = null;
  if (region && region[2] - region[0] > 0.02 && region[3] - region[1] > 0.02) { state.query.region = region; go("always"); }
  else drawRegion(state.query.region);
});
$("drop").addEventListener("click", () => { if (state.preview === null) $("file").click(); });
$("drop").addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); $("file").click(); } });

// Large view

const view = { place: 0, scale: 1, x: 0, y: 0 };

function enlarge(place) {
  view.place = place;
  const hit = place < 0 ? null : state.hits[place];
  const [left, right] = [$("left-pane"), $("right-pane")];
  left.hidden = state.preview === null;
  right.hidden = hit === null;
  document.querySelector(".panes").classList.toggle("alone", left.hidden || right.hidden);
  if (state.preview !== null) left.querySelector("img").src = state.preview;
  if (hit) {
    right.querySelector("img").src = `/api/cases/${encodeURIComponent(hit.case)}/image?size=large`;
    right.querySelector("figcaption").textContent = [`similarity ${hit.score.toFixed(3)}`, ...Object.entries(hit.columns).map(([name, value]) => `${name}: ${value ?? "–"}`)].join(" · ");
  }
  $("large-name").textContent = hit ? `Case ${place + 1} of ${state.hits.length}` : "The query";
  $("large-like").hidden = hit === null;
  moved(1, 0, 0);
  if (!$("large").open) $("large").showModal();
}

function moved(scale, x, y) {
  view.scale = Math.min(40, Math.max(1, scale));
  if (view.scale === 1) { x = 0; y = 0; }
  [view.x, view.y] = [x, y];
  for (const image of document.querySelectorAll(".pan img")) image.style.transform = `translate(${x}px, ${y}px) scale(${view.scale})`;
}

for (const pan of document.querySelectorAll(".pan")) {
  const fingers = new Map();
  let apart = 0;
  pan.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = pan.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  pan.addEventListener("dblclick", () => moved(1, 0, 0));
  pan.addEventListener("pointerdown", (event) => { pan.setPointerCapture(event.pointerId); fingers.set(event.pointerId, [event.clientX, event.clientY]); apart = 0; });
  pan.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    if (fingers.size === 1) { moved(view.scale, view.x + event.clientX - before[0], view.y + event.clientY - before[1]); return; }
    const [[ax, ay], [bx, by]] = [...fingers.values()];
    const now = Math.hypot(ax - bx, ay - by);
    const box = pan.getBoundingClientRect();
    if (apart) zoom(now / apart, (ax + bx) / 2 - box.left, (ay + by) / 2 - box.top);
    apart = now;
  });
  for (const end of ["pointerup", "pointercancel"]) pan.addEventListener(end, (event) => { fingers.delete(event.pointerId); apart = 0; });
}

function zoom(factor, x, y) {
  const scale = Math.min(40, Math.max(1, view.scale * factor));
  const by = scale / view.scale;
  moved(scale, x - by * (x - view.x), y - by * (y - view.y));
}

// Saving

function save(name, type, text) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function asCsv() {
  const columns = [...new Set(state.hits.flatMap((hit) => Object.keys(hit.columns)))];
  const cell = (value) => {
    let words = value === null || value === undefined ? "" : String(value);
    if (/^[=+\-@\t\r]/.test(words) && Number.isNaN(Number(words))) words = `'${words}`;
    return /[",\n\r]/.test(words) ? `"${words.replaceAll('"', '""')}"` : words;
  };
  const rows = state.hits.map((hit, i) => [i + 1, hit.score, hit.case, ...columns.map((name) => hit.columns[name])]);
  return [["rank", "similarity", "case", ...columns], ...rows].map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

// Events

$("file").addEventListener("change", () => { take($("file").files[0]); $("file").value = ""; });
for (const kind of ["dragenter", "dragover"]) document.addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.remove("over"); });
document.addEventListener("drop", (event) => take([...event.dataTransfer.files][0]));
document.addEventListener("paste", (event) => {
  const image = [...event.clipboardData.items].find((item) => item.type.startsWith("image/"));
  if (image) { event.preventDefault(); take(image.getAsFile()); }
});
$("words").addEventListener("submit", async (event) => {
  event.preventDefault();
  const words = $("text").value;
  await started;
  state.query.text = words;
  go("always");
});
$("weight").addEventListener("change", () => { state.query.weight = Number($("weight").value); go(); });
$("clear-region").onclick = () => { state.query.region = null; go("always"); };
$("clear").onclick = () => { state.query = { ...fresh(), text: state.query.text }; state.preview = null; state.name = ""; go("always"); };
$("look").onclick = () => enlarge(state.hits.length ? 0 : -1);
$("clear-refine").onclick = () => { state.query.more = []; state.query.less = []; go(); };
$("features").onchange = () => { state.features = $("features").value; go(); };
$("one-per").onchange = () => { state.onePer = $("one-per").checked; go(); };
$("not-own").onchange = () => { state.notOwn = $("not-own").checked; go(); };
$("k").onchange = () => { state.k = Number($("k").value); go(); };
$("save-csv").onclick = () => save("similar-cases.csv", "text/csv", asCsv());
$("save-json").onclick = () => save("similar-cases.json", "application/json", JSON.stringify({ ...state.answer, findings: state.findings }, null, 2));
$("copy-link").onclick = async () => {
  try { await navigator.clipboard.writeText(location.href); $("count").textContent = state.query.upload ? "copied; an uploaded image is not in the link" : "copied"; } catch { told("The browser does not allow copying: take the address from its bar."); }
};
$("reveal").onclick = reveal;
$("own-call").addEventListener("keydown", (event) => { if (event.key === "Enter") reveal(); });
$("opacity").oninput = () => { $("heat").style.opacity = $("opacity").value; };
$("hide-heat").onclick = () => { state.heat = null; drawHeat(); };
for (const button of document.querySelectorAll("[data-agree]")) button.onclick = () => agree(button);
$("large-close").onclick = () => $("large").close();
$("large-like").onclick = () => { $("large").close(); from(state.hits[view.place]); };
$("help-button").onclick = () => $("help").showModal();
window.addEventListener("popstate", (event) => { recall(event.state); state.askedFor = null; go(false); });

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "") && document.activeElement.type !== "checkbox";
  if ($("large").open) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step && state.hits[view.place + step]) { event.preventDefault(); enlarge(view.place + step); }
    return;
  }
  if (typing || $("help").open) return;
  const cards = [...document.querySelectorAll(".case")];
  const here = document.activeElement?.closest?.(".case");
  const place = here ? cards.indexOf(here) : -1;
  const wide = getComputedStyle($("grid")).gridTemplateColumns.split(" ").length;
  const to = { ArrowRight: place + 1, ArrowLeft: place - 1, ArrowDown: place < 0 ? 0 : place + wide, ArrowUp: place - wide }[event.key];
  if (to !== undefined && cards[to]) { event.preventDefault(); cards[to].focus(); cards[to].scrollIntoView({ block: "nearest" }); }
  else if (event.key === "/") { event.preventDefault(); $("text").focus(); }
  else if (event.key === "o") $("file").click();
  else if (event.key === "?") $("help").showModal();
  else if (event.key === "Backspace") history.back();
  else if (place >= 0 && document.activeElement === here) {
    const hit = state.hits[place];
    if (event.key === "Enter") from(hit);
    else if (event.key === " ") { event.preventDefault(); enlarge(place); }
    else if (event.key === "+") refine("more", hit.case);
    else if (event.key === "-") refine("less", hit.case);
  }
});

// Start

try {
  state.info = await ask("/api/info");
  const { info } = state;
  document.title = `${info.store}: similar cases`;
  $("about").textContent = `${info.store}, ${info.n_cases.toLocaleString("en")} cases`;
  $("features").replaceChildren(...Object.keys(info.features).map((name) => element("option", { value: name, textContent: name })));
  $("features-row").hidden = Object.keys(info.features).length < 2;
  for (const row of document.querySelectorAll(".patients")) row.hidden = !info.patients;
  $("empty-hint").textContent = "The image stays in the memory of the server for a while, and is never stored.";
  drawExamples();
  begin();
  recall(history.state);
  go(false);
} catch (error) { told(error); }
