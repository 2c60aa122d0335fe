// The maps: an own WebGL2 canvas a model (2D where there is none), and over it what is few: edges, pictures, the lasso.
// What to show stands in the view's data-map; clicks and lassos go to the server, which answers with another data-map.
const SHADER = [
  "#version 300 es",
  "in vec2 place; in uint colour; in float chosen; uniform vec3 view; uniform vec2 half_size; uniform vec4 palette[32];",
  "uniform float size, items, choosing; out vec4 ink; flat out float query;",
  "void main() { gl_Position = vec4((place - view.xy) * view.z / half_size, 0., 1.);",
  "query = float(gl_VertexID) >= items ? 1. : 0.; gl_PointSize = size * (1. + .5 * query);",
  "ink = palette[min(colour, 31u)]; if (colour == 255u) gl_Position.z = 2.;",
  "if (choosing > 0. && chosen == 0.) ink.a *= .12; ink.rgb *= ink.a; }",
];
const INK = [
  "#version 300 es",
  "precision mediump float; in vec4 ink; flat in float query; out vec4 colour;",
  "void main() { vec2 at = abs(gl_PointCoord - .5); float far = query > 0. ? at.x + at.y : length(at);",
  "if (far > .5) discard; colour = far > .38 && query > 0. ? vec4(1., 1., 1., ink.a) : ink; }",
];
const PICTURES = 60;
const SIDE = 46;
const root = element.querySelector(".map");
const make = (tag, name, parent, text) => {
  const made = document.createElement(tag);
  made.className = name;
  if (text) made.textContent = text;
  parent.append(made);
  return made;
};
const bar = make("div", "map-bar", root);
const frames = make("div", "frames", root);
const tip = make("div", "tip", root);
const about = new Map();
const images = new Map();
const panels = [];
const view = { x: 0, y: 0, zoom: 1 };
let facts = null;
let colours = new Uint8Array();
let chosen = new Uint8Array();
let palette = new Float32Array(128);
let lassoing = false;
let path = [];
let wanted = 0;

const button = (text, label, act) => {
  const made = make("button", "", bar, text);
  made.type = "button";
  made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
};
const lasso = button("Lasso", "Select points by drawing around them", () => setLasso(!lassoing));
const setLasso = (on) => {
  lassoing = on;
  lasso.setAttribute("aria-pressed", String(on));
  frames.classList.toggle("lassoing", on);
};
button("+", "Zoom in", () => zoom(1.6));
button("−", "Zoom out", () => zoom(1 / 1.6));
button("Whole map", "Show all points", () => {
  Object.assign(view, { x: 0, y: 0, zoom: 1 });
  draw();
});
setLasso(false);

// -- a panel ------------------------------------------------------------------------------------------------------

const panel = async (model, letter) => {
  const box = make("figure", "frame", frames);
  make("figcaption", "", box, letter + " " + model);
  const [below, above] = [make("canvas", "points", box), make("canvas", "over", box)];
  const made = { model, letter, box, below, above, over: above.getContext("2d"), points: null };
  const wish = below.getContext("webgl2", { antialias: false });
  Object.assign(made, wish ? webgl(wish) : { plain: below.getContext("2d") });
  box.dataset.renderer = wish ? "webgl2" : "2d";
  listen(made);
  const answer = await fetch("gcl/points/" + encodeURIComponent(model) + "?v=" + facts.version);
  made.points = new Float32Array(await answer.arrayBuffer());
  if (wish) fill(made, 0, made.points, 2, wish.FLOAT);
  return made;
};
const webgl = (gl) => {
  const program = gl.createProgram();
  for (const [kind, lines] of [[gl.VERTEX_SHADER, SHADER], [gl.FRAGMENT_SHADER, INK]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, lines.join("\n"));
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  ["place", "colour", "chosen"].forEach((name, at) => gl.bindAttribLocation(program, at, name));
  gl.linkProgram(program);
  gl.useProgram(program);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  return { gl, at: (name) => gl.getUniformLocation(program, name), buffers: [0, 1, 2].map(() => gl.createBuffer()) };
};
const fill = ({ gl, buffers }, at, data, size, kind) => {
  gl.bindBuffer(gl.ARRAY_BUFFER, buffers[at]);
  gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
  gl.enableVertexAttribArray(at);
  if (at === 1) gl.vertexAttribIPointer(at, size, kind, 0, 0);
  else gl.vertexAttribPointer(at, size, kind, false, 0, 0);
};

// -- drawing ------------------------------------------------------------------------------------------------------

const scale = ({ box }) => (view.zoom * Math.min(box.clientWidth, box.clientHeight)) / 2.15;
const onScreen = (made, row) => [
  made.box.clientWidth / 2 + (made.points[2 * row] - view.x) * scale(made),
  made.box.clientHeight / 2 - (made.points[2 * row + 1] - view.y) * scale(made),
];
const onMap = (made, x, y) => [
  view.x + (x - made.box.clientWidth / 2) / scale(made),
  view.y - (y - made.box.clientHeight / 2) / scale(made),
];
const dot = () => Math.max(2, Math.min(7, 200 / Math.sqrt(facts.items))) * Math.min(2, view.zoom ** 0.3);
let due = 0;
const draw = () => (due ||= requestAnimationFrame(drawNow));
const drawNow = () => {
  due = 0;
  if (!facts || !element.offsetParent) return;
  const start = performance.now();
  for (const made of panels) {
    if (!made.points) continue;
    for (const canvas of [made.below, made.above]) {
      const [width, height] = [made.box.clientWidth, made.box.clientHeight].map((side) => Math.round(side * devicePixelRatio));
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    }
    if (made.gl) drawPoints(made);
    else drawPlain(made);
    drawOver(made);
  }
  root.dataset.milliseconds = String(Math.round(performance.now() - start));
};
const drawPoints = (made) => {
  const { gl, at } = made;
  gl.viewport(0, 0, made.below.width, made.below.height);
  gl.clearColor(0, 0, 0, 0);
  gl.clear(gl.COLOR_BUFFER_BIT);
  gl.uniform3f(at("view"), view.x, view.y, scale(made));
  gl.uniform2f(at("half_size"), made.box.clientWidth / 2, made.box.clientHeight / 2);
  gl.uniform4fv(at("palette"), palette);
  gl.uniform1f(at("size"), dot() * devicePixelRatio);
  gl.uniform1f(at("items"), facts.items);
  gl.uniform1f(at("choosing"), facts.chosen ? 1 : 0);
  gl.drawArrays(gl.POINTS, 0, made.points.length / 2);
  gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4)); // waits, so that the time is the true one
};
const css = (colour, alpha) => {
  const [r, g, b] = palette.slice(4 * colour, 4 * colour + 3).map((part) => 255 * part);
  return "rgb(" + [r, g, b].join(" ") + " / " + alpha + ")";
};
const drawPlain = (made) => {
  const [context, side, s] = [made.plain, dot(), scale(made)];
  context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  context.clearRect(0, 0, made.box.clientWidth, made.box.clientHeight);
  const [middle, centre] = [made.box.clientWidth / 2, made.box.clientHeight / 2];
  let last = -1;
  for (let row = 0; row < colours.length; row++) {
    if (colours[row] === 255) continue;
    const kind = colours[row] + (facts.chosen && !chosen[row] ? 256 : 0);
    if (kind !== last) context.fillStyle = css(colours[row], kind > 255 ? 0.12 : 0.85);
    last = kind;
    const size = row < facts.items ? side : 1.5 * side;
    context.fillRect(
      middle + (made.points[2 * row] - view.x) * s - size / 2,
      centre - (made.points[2 * row + 1] - view.y) * s - size / 2,
      size,
      size,
    );
  }
};
const drawOver = (made) => {
  const over = made.over;
  over.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  over.clearRect(0, 0, made.box.clientWidth, made.box.clientHeight);
  if (facts.query !== null) {
    const [x, y] = onScreen(made, facts.items + facts.query);
    for (const [row, level] of [...facts.edges].reverse()) line(over, [[x, y], onScreen(made, row)], levels[level], 1 + level / 2);
    ring(over, [x, y], levels[5], 9);
  }
  const shown = inView(made);
  if (shown) for (const row of shown) paint(made, row);
  if (facts.item !== null) for (const row of [...facts.near, facts.item]) ring(over, onScreen(made, row), levels[5], row === facts.item ? 10 : 6);
  const held = path.length ? (path.made === made ? path : []) : corners(made);
  if (held.length > 1) line(over, [...held, held[0]], levels[5], 2);
};
const line = (over, places, colour, width) => {
  over.beginPath();
  places.forEach(([x, y]) => over.lineTo(x, y));
  Object.assign(over, { strokeStyle: colour, lineWidth: width });
  over.stroke();
};
const ring = (over, [x, y], colour, radius) => {
  over.beginPath();
  over.arc(x, y, radius, 0, 2 * Math.PI);
  Object.assign(over, { strokeStyle: colour, lineWidth: 2.5 });
  over.stroke();
};
const corners = (made) => {
  const [letter, said] = facts.lasso.split(":");
  if (!said || letter !== made.letter.toLowerCase()) return [];
  const s = scale(made);
  return said.split(";").map((corner) => {
    const [x, y] = corner.split(",").map(Number);
    return [made.box.clientWidth / 2 + (x - view.x) * s, made.box.clientHeight / 2 - (y - view.y) * s];
  });
};
const inView = (made) => {
  if (view.zoom < 1.5) return null;
  const [left, top] = onMap(made, 0, 0);
  const [right, bottom] = onMap(made, made.box.clientWidth, made.box.clientHeight);
  const found = [];
  for (let row = 0; row < facts.items && found.length <= PICTURES; row++) {
    const [x, y] = [made.points[2 * row], made.points[2 * row + 1]];
    if (x > left && x < right && y > bottom && y < top) found.push(row);
  }
  return found.length <= PICTURES ? found : null;
};
const source = (row) => "gcl/picture/" + row + "?v=" + facts.version;
const paint = (made, row) => {
  let image = images.get(row);
  if (!image) {
    image = new Image();
    Object.assign(image, { onload: () => draw(), src: source(row) });
    images.set(row, image);
  }
  if (!image.naturalWidth) return;
  const [x, y] = onScreen(made, row);
  made.over.drawImage(image, x - SIDE / 2, y - SIDE / 2, SIDE, SIDE);
  Object.assign(made.over, { strokeStyle: css(colours[row], 1), lineWidth: 3 });
  made.over.strokeRect(x - SIDE / 2, y - SIDE / 2, SIDE, SIDE);
};

// -- pointing -----------------------------------------------------------------------------------------------------

const zoom = (factor, made, x, y) => {
  const before = made ? onMap(made, x, y) : null;
  view.zoom = Math.max(0.5, Math.min(400, view.zoom * factor));
  if (before) {
    const after = onMap(made, x, y);
    view.x += before[0] - after[0];
    view.y += before[1] - after[1];
  }
  draw();
};
const nearest = (made, x, y) => {
  const [mx, my] = onMap(made, x, y);
  let [best, far] = [null, (14 / scale(made)) ** 2];
  for (let row = 0; row < colours.length; row++) {
    const square = (made.points[2 * row] - mx) ** 2 + (made.points[2 * row + 1] - my) ** 2;
    if (square <= far && colours[row] !== 255) [best, far] = [row, square];
  }
  return best;
};
const show = async (row, x, y) => {
  const mine = ++wanted;
  if (row === null) return tip.classList.remove("shown");
  if (!about.has(row)) about.set(row, await (await fetch("gcl/point/" + row + "?v=" + facts.version)).json());
  if (mine !== wanted) return;
  tip.replaceChildren();
  if (about.get(row).picture) make("img", "", tip).src = source(row);
  make("span", "", tip, about.get(row).title);
  Object.assign(tip.style, { left: Math.min(x + 12, root.clientWidth - 190) + "px", top: y + 12 + "px" });
  tip.classList.add("shown");
};
const listen = (made) => {
  const at = (event) => {
    const box = made.above.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  let from = null;
  let moved = 0;
  made.above.addEventListener("pointerdown", (event) => {
    made.above.setPointerCapture(event.pointerId);
    [from, moved] = [at(event), 0];
    if (lassoing) path = Object.assign([from], { made });
  });
  made.above.addEventListener("pointermove", (event) => {
    if (!made.points) return;
    const [x, y] = at(event);
    if (!from) return show(nearest(made, x, y), event.clientX - root.getBoundingClientRect().left, event.clientY - root.getBoundingClientRect().top);
    moved += Math.abs(x - from[0]) + Math.abs(y - from[1]);
    if (lassoing) path.push([x, y]);
    else {
      view.x -= (x - from[0]) / scale(made);
      view.y += (y - from[1]) / scale(made);
    }
    from = [x, y];
    if (lassoing) drawOver(made);
    else draw();
  });
  made.above.addEventListener("pointerup", (event) => {
    if (lassoing && path.length > 2) {
      const step = Math.ceil(path.length / 60);
      const said = path.filter((_, place) => place % step === 0).map(([x, y]) => onMap(made, x, y).map((part) => part.toFixed(4)).join(","));
      if (said.length > 2) trigger("click", { lasso: made.letter.toLowerCase() + ":" + said.join(";") });
      setLasso(false);
    } else if (moved < 5) {
      const row = nearest(made, ...at(event));
      if (row !== null) trigger("click", row < facts.items ? { item: String(row) } : { ask: String(row - facts.items) });
    }
    [from, path] = [null, []];
  });
  made.above.addEventListener("pointerleave", () => show(null));
  made.above.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(1.0015 ** -event.deltaY, made, ...at(event));
  }, { passive: false });
};

// -- what is said -------------------------------------------------------------------------------------------------

let levels = [];
const inks = (place) => {
  const parts = (node, what) => getComputedStyle(node)[what].match(/[\d.]+/g).slice(0, 3).map((part) => part / 255);
  palette = new Float32Array(128).fill(0.55).map((part, at) => (at % 4 === 3 ? 0.85 : part));
  for (const swatch of place.querySelectorAll("[data-colour]")) palette.set(parts(swatch, "backgroundColor"), 4 * swatch.dataset.colour);
  const named = getComputedStyle(root);
  levels = ["--hatch", "--l1", "--l2", "--l3", "--l4", "--down"].map((name) => named.getPropertyValue(name));
};
const take = async (place) => {
  const said = place.querySelector("[data-map]");
  if (!said) return;
  facts = JSON.parse(said.dataset.map);
  inks(place);
  const bits = Uint8Array.from(atob(facts.chosen), (letter) => letter.charCodeAt(0));
  const answer = await fetch(facts.colours);
  colours = new Uint8Array(await answer.arrayBuffer());
  chosen = new Uint8Array(colours.length).map((_, row) => (facts.chosen ? (bits[row >> 3] >> (row & 7)) & 1 : 0));
  if (panels.map((made) => made.model).join() !== facts.models.join()) {
    panels.splice(0);
    frames.replaceChildren();
    frames.classList.toggle("two", facts.models.length > 1);
    panels.push(...(await Promise.all(facts.models.map((model, at) => panel(model, "AB"[at])))));
  }
  for (const made of panels.filter((made) => made.gl)) {
    fill(made, 1, colours, 1, made.gl.UNSIGNED_BYTE);
    fill(made, 2, chosen, 1, made.gl.UNSIGNED_BYTE);
  }
  draw();
  root.dataset.points = String(colours.length);
};
let queue = Promise.resolve();
const heard = (place) => (queue = queue.then(() => take(place)));
document.addEventListener("gcl-drawn", (event) => heard(event.detail));
new ResizeObserver(draw).observe(root);
const early = document.querySelector("[data-map]");
if (early) heard(early.closest(".view"));
