// The page: everything it shows comes from the JSON API, and every search is in its address.
const byId = id => document.getElementById(id);
const STEP = 24, MOST = 200, CHIPS = 10, PLACES = 6;
const WHERE = ["anywhere", "left", "centre", "right", "top", "bottom"];
const fresh = () => ({ q: "", like: "", without: [], filters: [], top: STEP });
let state = fresh(), photo = null, model = null, results = [], current = 0, running = null, allClasses = false;

// ---- helpers

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children.filter(child => child !== null));
  return node;
}

async function ask(path, options) {
  let response;
  try { response = await fetch(path, options); } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it still running?");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || `The server answered with ${response.status}.`);
  return answer;
}

const percent = part => part === null || part === undefined ? "" : part > 0 && part < 0.01 ? "<1%" : `${Math.round(part * 100)}%`;
const photoUrl = (kind, id) => `api/${kind}/${encodeURIComponent(id)}`;
const words = name => name.replaceAll("_", " ");

// ---- the search and its address

function parameters() {
  const query = new URLSearchParams();
  if (state.q) query.set("q", state.q);
  if (state.like) query.set("like", state.like);
  state.without.forEach(word => query.append("without", word));
  state.filters.forEach(filter => query.append("filter", filter));
  if (state.top !== STEP) query.set("top", state.top);
  return query;
}

function readAddress() {
  const given = new URLSearchParams(location.search);
  state = { q: given.get("q") || "", like: given.get("like") || "", without: given.getAll("without"),
    filters: given.getAll("filter"), top: Math.min(MOST, Math.max(1, Number(given.get("top")) || STEP)) };
  byId("q").value = state.q;
}

function change(changes) {
  Object.assign(state, { top: STEP }, changes);
  const address = parameters().toString();
  history.pushState(null, "", address ? `?${address}` : location.pathname);
  if (!byId("search-page").hidden || changes) turnTo("search");
  search();
}

async function search() {
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  const empty = !state.q && !state.like && !photo && !state.filters.length && !state.without.length;
  document.body.classList.toggle("fresh", empty);
  drawControls();
  if (empty) { results = []; say(""); drawResults(null); return; }
  const asked = parameters();
  asked.set("top", state.top);
  if (state.q && (photo || state.like)) asked.set("text_weight", byId("weight").value);
  const body = photo && { method: "POST", body: photo, headers: { "content-type": photo.type || "application/octet-stream" } };
  byId("results").setAttribute("aria-busy", "true");
  try {
    const answer = await ask(`api/search?${asked}`, { ...body, signal });
    results = answer.results;
    tell(answer);
    drawResults(answer);
  } catch (error) {
    if (error.name === "AbortError") return;
    results = [];
    drawResults(null);
    say(error.message, "fault");
  }
  byId("results").removeAttribute("aria-busy");
}

function say(text, kind = "") {
  byId("status").className = kind;
  byId("status").replaceChildren(...[text].flat());
}

function tell(answer) {
  const what = state.q ? `“${state.q}”` : photo || state.like ? "that photo" : "these filters";
  const name = element("strong", { textContent: what });
  if (!results.length) return say(["No photo passes for ", name, ". Take a filter away."], "none");
  if (answer.matches === false)
    return say(["Nothing matches ", name, ". The nearest photos are shown dimmed."], "none");
  const sure = answer.answerable === null ? "" : ` · a match is ${percent(answer.answerable)} likely`;
  say([`${results.length} of ${model?.photos ?? "?"} photos for `, name, `${sure}`]);
}

// ---- results

function drawResults(answer) {
  byId("results").classList.toggle("dimmed", answer?.matches === false);
  byId("results").replaceChildren(...results.map(card));
  byId("more").hidden = !answer || results.length < state.top || state.top >= MOST;
}

function worth(result) {
  if (result.score === null) return "";
  return result.probability === null ? result.score.toFixed(3) : percent(result.probability);
}

function meaning(result) {
  if (result.score === null) return "passes the filters";
  const folded = result.duplicates?.length ? `, and ${result.duplicates.length} nearly the same` : "";
  return (result.probability === null ? `similarity ${result.score.toFixed(3)}`
    : `${percent(result.probability)} likely a match, similarity ${result.score.toFixed(3)}`) + folded;
}

function card(result, place) {
  const name = result.file || result.id;
  const image = element("img", { src: photoUrl("thumbnail", result.id), alt: "", loading: place < 12 ? "eager" : "lazy", decoding: "async" });
  image.onerror = () => image.replaceWith(element("p", { className: "name", textContent: "This photo is gone." }));
  const bar = result.probability === null ? null : element("meter", { max: results[0].probability || 1, value: result.probability });
  bar?.setAttribute("aria-hidden", "true");
  const node = element("button", { className: "card", title: name }, image, element("span", { className: "meta" },
    element("span", { className: "name", textContent: name.split("/").pop() }),
    element("span", { className: "value", textContent: worth(result) }), bar));
  node.setAttribute("aria-label", `Photo ${place + 1}: ${name}, ${meaning(result)}`);
  node.onclick = () => view(place);
  return node;
}

// ---- controls

function chip(text, press, pressed) {
  const node = element("button", { type: "button", className: "chip", onclick: press }, text);
  if (pressed !== undefined) node.setAttribute("aria-pressed", pressed);
  return node;
}

function split(filter) {  // has:dog, dog:left -> its class and place; others -> nothing
  const [, name, where] = filter.match(/^(.*):(left|centre|right|top|bottom)$/) || [];
  return filter.startsWith("has:") ? [filter.slice(4), WHERE[0]] : [name, where];
}
const joined = (name, where) => where === "anywhere" ? `has:${name}` : `${name}:${where}`;
const swapped = (list, old, replacement) => list.flatMap(item => item === old ? replacement : [item]);

function drawControls() {
  const used = new Set(state.filters.map(filter => split(filter)[0]));
  const classes = model?.classes || [];
  byId("classes").replaceChildren(...classes.slice(0, allClasses ? classes.length : CHIPS).map(({ name, photos }) => {
    const node = chip(words(name), () => change({ filters: used.has(name)
      ? state.filters.filter(filter => split(filter)[0] !== name) : [...state.filters, `has:${name}`] }), used.has(name));
    node.append(element("small", { textContent: photos }));
    node.setAttribute("aria-label", `Contains ${words(name)}, ${photos} photos`);
    return node;
  }));
  if (!allClasses && classes.length > CHIPS)
    byId("classes").append(chip(`${classes.length - CHIPS} more`, () => { allClasses = true; drawControls(); byId("classes").children[CHIPS].focus(); }));
  byId("contains-row").hidden = !classes.length;
  byId("refine-row").hidden = document.body.classList.contains("fresh");
  byId("pills").replaceChildren(...state.filters.map(filterPill), ...state.without.map(word =>
    pill(`not ${word}`, () => change({ without: swapped(state.without, word, []) }))),
    ...state.like ? [pill(`like ${state.like}`, () => change({ like: "" }))] : []);
  const withPhoto = Boolean(photo);
  byId("sent").hidden = byId("drop-sent").hidden = !withPhoto;
  byId("weight-row").hidden = !(state.q && (withPhoto || state.like));
}

function pill(text, remove, ...more) {
  const cross = element("button", { type: "button", textContent: "×", onclick: remove });
  cross.setAttribute("aria-label", `Remove: ${text}`);
  return element("span", { className: "pill" }, text, ...more, cross);
}

function filterPill(filter) {
  const [name, where] = split(filter), remove = () => change({ filters: swapped(state.filters, filter, []) });
  if (!name || !model?.classes.some(known => known.name === name)) return pill(filter, remove);
  const places = element("select", { onchange: event => change({ filters: swapped(state.filters, filter, [joined(name, event.target.value)]) }) },
    ...WHERE.map(place => element("option", { textContent: place, selected: place === where })));
  places.setAttribute("aria-label", `Where the ${words(name)} is`);
  return pill(words(name), remove, places);
}

function adder(id, key) {
  byId(id).addEventListener("keydown", event => {
    const word = event.target.value.trim();
    if (event.key !== "Enter") return;
    event.preventDefault();
    if (word && !state[key].includes(word)) { event.target.value = ""; change({ q: byId("q").value.trim(), [key]: [...state[key], word] }); }
  });
}

// ---- a photo as the query

function takePhoto(file) {
  if (!file) return;
  forgetPhoto();
  photo = file;
  byId("sent").src = URL.createObjectURL(file);
  change({ q: byId("q").value.trim(), like: "" });
}

function forgetPhoto() {
  if (photo) URL.revokeObjectURL(byId("sent").src);
  photo = null;
  byId("file").value = "";
}

let dragged = 0;
addEventListener("dragenter", event => { if (event.dataTransfer?.types.includes("Files")) { dragged += 1; byId("dropzone").hidden = false; } });
addEventListener("dragleave", () => { dragged -= 1; byId("dropzone").hidden = dragged > 0; });
addEventListener("dragover", event => event.preventDefault());
addEventListener("drop", event => { event.preventDefault(); dragged = 0; byId("dropzone").hidden = true; takePhoto(event.dataTransfer.files[0]); });
addEventListener("paste", event => takePhoto(event.clipboardData.files[0]));

// ---- one photo, and why

async function view(place) {
  current = place;
  const result = results[place], { id } = result, name = result.file || id;
  byId("viewer-title").textContent = name;
  byId("viewer-match").textContent = meaning(result);
  byId("whole").src = byId("open").href = photoUrl("photo", id);
  byId("whole").alt = name;
  byId("heat").hidden = byId("mark").hidden = byId("opacity-row").hidden = true;
  byId("tokens").replaceChildren();
  byId("holds").textContent = "";
  byId("why").hidden = !state.q;
  byId("previous").disabled = place === 0;
  byId("next").disabled = place === results.length - 1;
  if (!byId("viewer").open) byId("viewer").showModal();
  if (!state.q) return;
  byId("why-says").textContent = model?.explanation_refused ? `No explanation: ${model.explanation_refused}.` : "Looking …";
  if (model?.explanation_refused) return;
  try {
    const why = await ask(`api/explain?${new URLSearchParams({ id, q: state.q })}`);
    if (results[current]?.id === id) drawWhy(why);
  } catch (error) { byId("why-says").textContent = error.message; }
}

function drawWhy(why) {
  const trusted = why.shown_as === "explanation";
  const value = trusted ? place => place.effect : place => place.weight ?? 0;
  const places = why.places.filter(place => value(place) > 0).sort((one, other) => value(other) - value(one)).slice(0, PLACES);
  byId("heat").src = why.heat;
  byId("heat").hidden = byId("opacity-row").hidden = !trusted;
  byId("why-says").textContent = trusted ? "Where the photo matches the sentence. The bars say how much similarity each place brings."
    : "For this photo and sentence there is no explanation that can be trusted. The bars show what the model highlights for any sentence.";
  byId("why-says").title = why.remark;
  byId("tokens").replaceChildren(...places.map(place => {
    const holds = place.kind === "segment" ? place.name : Object.keys(place.classes)[0];
    const what = holds ? words(holds) : `${place.kind} ${place.name}`;
    const line = element("button", { type: "button", title: `${place.kind} ${place.name}` }, element("span", { textContent: what }),
      element("meter", { max: value(places[0]), value: value(place) }), element("span", { className: "value", textContent: value(place).toFixed(3) }));
    line.onmouseenter = line.onfocus = () => drawMark(place.box);
    line.onmouseleave = line.onblur = () => drawMark(null);
    return element("li", {}, line);
  }));
  const classes = Object.entries(why.classes).slice(0, PLACES).map(([name, share]) => `${words(name)} ${percent(share)}`);
  byId("holds").textContent = classes.length ? `The segmentation found: ${classes.join(", ")}.` : "";
}

function drawMark(box) {
  byId("mark").hidden = !box;
  if (!box) return;
  const [x1, y1, x2, y2] = box.map(part => `${part * 100}%`);
  Object.assign(byId("mark").style, { left: x1, top: y1, width: `calc(${x2} - ${x1})`, height: `calc(${y2} - ${y1})` });
}

byId("whole").onload = event => event.target.parentElement.style.setProperty("--ratio", event.target.naturalWidth / event.target.naturalHeight);
byId("opacity").oninput = event => { byId("heat").style.opacity = event.target.value / 100; };
byId("opacity").dispatchEvent(new Event("input"));
byId("close").onclick = () => byId("viewer").close();
byId("viewer").onclick = event => { if (event.target === byId("viewer")) byId("viewer").close(); };
byId("viewer").onclose = () => byId("results").children[current]?.focus();
byId("previous").onclick = () => view(current - 1);
byId("next").onclick = () => view(current + 1);
byId("like").onclick = () => { const { id } = results[current]; byId("viewer").close(); forgetPhoto(); byId("q").value = ""; change({ q: "", like: id }); scrollTo(0, 0); };

// ---- the page about the model

function turnTo(page) {
  for (const name of ["search", "model"]) {
    byId(`${name}-page`).hidden = name !== page;
    byId(`to-${name}`)[name === page ? "setAttribute" : "removeAttribute"]("aria-current", "page");
  }
}

const table = (rows, head) => element("div", { className: "scroll" }, element("table", {},
  head ? element("thead", {}, element("tr", {}, ...head.map((text, number) => element("th", { textContent: text, className: number ? "number" : "" })))) : null,
  element("tbody", {}, ...rows.map(([name, ...cells]) => element("tr", {}, element("th", { textContent: name }),
    ...cells.map(text => element("td", { textContent: text, className: head ? "number" : "" })))))));

function drawModel() {
  const { scores, facts } = model, sides = { t2i: "sentence → photo", i2t: "photo → sentence" };
  const recalls = ["R@1", "R@5", "R@10"];
  const parts = [element("p", { textContent: `This page searches ${model.photos} photos with ${model.name}, a 3SHNet model: `
    + "a dual encoder that turns photos and sentences into vectors of one space. A segmentation of each photo guides it." }),
    element("p", { textContent: model.calibrated
      ? "A percentage is the calibrated probability that a photo is what you asked for. Photos share it: a sentence that fits many gives each a little. When a match is not likely enough, the page says that nothing matches."
      : "This model has no calibration, so the page shows similarities instead of probabilities, and never says that nothing matches." })];
  if (facts.train_images) parts.push(element("p", { textContent:
    `It was trained on ${facts.train_images} photos of ${facts.data}, and knows what they show and how their captions, in English, say it.` }));
  if (scores.rsum) parts.push(element("h2", { textContent: "Scores" }), element("p", { textContent: scores.described || "" }),
    table(Object.entries(sides).filter(([side]) => scores[side]).map(([side, name]) => [name, ...recalls.map(recall => scores[side][recall].toFixed(1)), scores[side].median_rank]),
      ["percent of queries with an answer among the first 1, 5 and 10", ...recalls, "median rank"]),
    element("p", { textContent: `rsum ${scores.rsum.toFixed(1)}` }));
  parts.push(element("h2", { textContent: "Training" }), table(Object.entries(facts).map(([name, value]) => [words(name), [value].flat().join(", ")])));
  if (model.classes.length) parts.push(element("h2", { textContent: "What the segmentation found" }),
    element("p", { textContent: "Classes, and the number of photos that each occurs in." }),
    element("ul", {}, ...model.classes.map(({ name, photos }) => element("li", {}, words(name), element("span", { textContent: photos })))));
  parts.push(element("h2", { textContent: "From a program" }), element("pre", { textContent:
    `curl '${location.origin}/api/search?q=${encodeURIComponent(model.examples[0] || "a dog")}&top=5'\n`
    + `curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' '${location.origin}/api/search'\n`
    + `curl ${location.origin}/openapi.json` }));
  byId("about").replaceChildren(...parts);
}

// ---- keyboard, and the start

addEventListener("keydown", event => {
  const typing = event.target.matches("input, select, textarea");
  if (byId("viewer").open) {
    if (typing) return;
    if (event.key === "ArrowLeft") byId("previous").click();
    if (event.key === "ArrowRight") byId("next").click();
  } else if (event.key === "/" && !typing) {
    event.preventDefault();
    turnTo("search");
    byId("q").select();
  } else if (event.target.matches(".card")) walk(event);
  else if (event.key === "ArrowDown" && event.target.id === "q" && results.length) { event.preventDefault(); byId("results").firstChild.focus(); }
});

function walk(event) {
  const cards = [...byId("results").children], here = cards.indexOf(event.target);
  const columns = cards.findIndex(card => card.offsetTop > cards[0].offsetTop);
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -(columns > 0 ? columns : 1), ArrowDown: columns > 0 ? columns : 1 };
  if (!(event.key in steps)) return;
  event.preventDefault();
  const next = here + steps[event.key];
  (next < 0 ? byId("q") : cards[Math.min(next, cards.length - 1)]).focus();
}

byId("search").onsubmit = event => { event.preventDefault(); change({ q: byId("q").value.trim() }); byId("q").blur(); };
byId("weight").onchange = search;
byId("more").onclick = () => { state.top = Math.min(MOST, state.top * 2); search(); };
byId("file").onchange = event => takePhoto(event.target.files[0]);
byId("drop-sent").onclick = () => { forgetPhoto(); change({}); };
byId("to-search").onclick = () => turnTo("search");
byId("to-model").onclick = () => { turnTo("model"); byId("model-page").focus(); };
adder("without", "without");
adder("filter", "filters");
addEventListener("popstate", () => { forgetPhoto(); readAddress(); turnTo("search"); search(); });

document.body.classList.add("fresh");
readAddress();
try {
  model = await ask("api/model");
  byId("examples").replaceChildren(...model.examples.map(text => chip(text, () => { byId("q").value = text; change({ q: text }); })));
  byId("filters").replaceChildren(...model.classes.flatMap(({ name }) => WHERE.map(where => element("option", { value: joined(name, where) }))));
  if (model.photo_refused) byId("drop-hint").textContent = `Only a photo of this index can be the query: ${model.photo_refused}.`;
  drawModel();
} catch (error) { say(error.message, "fault"); }
await search();
document.body.dataset.ready = "true";
