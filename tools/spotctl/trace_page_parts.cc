#include "tools/spotctl/trace_page_parts.h"

namespace spotd::spotctl {

const char kTracePageHead[] = R"html(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>spotd trace</title>
<style>
  :root { --ink: #23201d; --soft: #8a8178; --paper: #fbf8f3; --line: #e6dfd5; --hot: #b3261e; }
  * { box-sizing: border-box; }
  body { margin: 0; height: 100vh; display: flex; flex-direction: column; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
  header { padding: 22px 32px 14px; border-bottom: 1px solid var(--line); }
  h1 { margin: 0; font: 600 21px/1.3 Georgia, serif; }
  #facts { color: var(--soft); margin-top: 4px; }
  #facts b { color: var(--ink); font-weight: 600; }
  main { display: grid; grid-template-columns: minmax(280px, 30%) 1fr; flex: 1; min-height: 0; }
  aside { padding: 20px 24px 24px 32px; overflow: auto; }
  section { padding: 20px 0 0 24px; border-left: 1px solid var(--line); display: flex; flex-direction: column; min-height: 0; }
  #top { padding-right: 32px; }
  h2 { margin: 0 0 8px; font: 600 12px/1.4 system-ui, sans-serif; letter-spacing: .08em; text-transform: uppercase; color: var(--soft); }
  #reply { font: 18px/1.75 Georgia, serif; white-space: pre-wrap; overflow-wrap: anywhere; }
  #reply span { border-radius: 4px; cursor: pointer; padding: 1px 0; }
  #reply span:hover { background: #f0e6d8; }
  #reply span.chosen { background: var(--hot); color: #fff; }
  #map { width: 100%; height: 190px; display: block; border-radius: 6px; background: #fff; cursor: crosshair; }
  #axis { display: flex; justify-content: space-between; color: var(--soft); font-size: 12px; margin: 3px 0 18px; }
  #scroll { overflow: auto; flex: 1; padding: 0 32px 48px 0; border-top: 1px solid var(--line); }
  #context { font: 15px/1.7 Georgia, serif; white-space: pre-wrap; overflow-wrap: anywhere; max-width: 76ch; padding-top: 12px; }
  #context span { border-radius: 3px; }
  #context.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(54px, 1fr)); gap: 3px; max-width: none; }
  #context.grid span { font: 11px/1.9 ui-monospace, monospace; text-align: center; color: var(--soft); }
  .always { color: var(--soft); border-bottom: 1px dotted #cfc6ba; }
  .controls { margin: 18px 0 0; color: var(--soft); font-size: 13px; display: grid; gap: 8px; }
  .controls input[type=range] { width: 100%; accent-color: var(--hot); }
  #hint { min-height: 3em; font-size: 13px; color: var(--soft); margin-top: 14px; }
  #scale { height: 8px; border-radius: 4px; background: linear-gradient(90deg, #fff, #f3c9a5, #dd6b45, #b3261e); }
  @media (max-width: 860px) { body { height: auto; } main { display: block; } section { border-left: 0; padding-left: 32px; } }
</style>
</head>
<body>
<header><h1 id="title"></h1><div id="facts"></div></header>
<main>
<aside>
  <h2>What was answered</h2>
  <div id="reply"></div>
  <div id="hint"></div>
  <div class="controls">
    <label>layer: <b id="layer-name"></b><input id="layer" type="range" min="0" value="0"></label>
    <label><input id="dim" type="checkbox" checked> fade what every token reads</label>
    <div><div id="scale"></div>read by no layer &nbsp;&rarr;&nbsp; by all</div>
  </div>
</aside>
<section>
  <div id="top">
    <h2>Where it was read &middot; a row for each token</h2>
    <canvas id="map"></canvas>
    <div id="axis"><span>0</span><span id="last"></span></div>
  </div>
  <h2>The context</h2>
  <div id="scroll"><div id="context"></div></div>
</section>
</main>
)html";

const char kTracePageScript[] = R"js(
const $ = id => document.getElementById(id);
const count = trace.blocks, steps = trace.steps;
let chosen = -1;   // a step, or -1 for all of them
let layer = 0;     // 0 for all of them, else one more than its number

// Of each step and block, the share of the layers looked at that read it.
function heatOf(step) {
  const heat = new Float32Array(count);
  const visible = Math.ceil(step.position / trace.blockTokens);
  if (step.dense) return heat.fill(1, 0, visible);
  const layers = layer ? [step.layers[layer - 1]] : step.layers;
  for (const runs of layers)
    for (let i = 0; i < runs.length; i += 2)
      for (let b = runs[i]; b < Math.min(runs[i] + runs[i + 1], visible); ++b) heat[b] += 1 / layers.length;
  return heat;
}

let heats, mean, always;
function measure() {
  heats = steps.map(heatOf);
  mean = new Float32Array(count);
  always = new Uint8Array(count).fill(1);
  for (const heat of heats)
    for (let b = 0; b < count; ++b) {
      mean[b] += heat[b] / heats.length;
      if (heat[b] < 0.999) always[b] = 0;
    }
}

// White over sand and orange to deep red.
const STOPS = [[255, 255, 255], [243, 201, 165], [221, 107, 69], [179, 38, 30]];
function colorOf(heat) {
  const x = Math.sqrt(Math.min(1, heat)) * (STOPS.length - 1), i = Math.min(Math.floor(x), STOPS.length - 2);
  return STOPS[i].map((low, k) => Math.round(low + (STOPS[i + 1][k] - low) * (x - i)));
}

function drawMap() {
  const map = $('map'), rows = steps.length, ratio = window.devicePixelRatio || 1;
  map.width = map.clientWidth * ratio;
  map.height = map.clientHeight * ratio;
  const small = document.createElement('canvas');
  small.width = count;
  small.height = rows;
  const pen = small.getContext('2d'), image = pen.createImageData(count, rows);
  heats.forEach((heat, row) => heat.forEach((value, b) => {
    const faded = $('dim').checked && always[b] ? 0.02 : value;
    image.data.set([...colorOf(faded), 255], 4 * (row * count + b));
  }));
  pen.putImageData(image, 0, 0);
  const paper = map.getContext('2d');
  paper.imageSmoothingEnabled = count > map.width;
  paper.drawImage(small, 0, 0, map.width, map.height);
  if (chosen < 0) return;
  paper.strokeStyle = '#23201d';
  paper.lineWidth = ratio;
  paper.strokeRect(0.5, map.height * chosen / rows, map.width - 1, map.height / rows);
}

function paint() {
  const heat = chosen < 0 ? mean : heats[chosen];
  const spans = $('context').children;
  let read = 0;
  for (let b = 0; b < count; ++b) {
    read += heat[b];
    const faded = $('dim').checked && always[b];
    spans[b].className = faded ? 'always' : '';
    spans[b].style.background = faded || heat[b] < 0.005 ? '' : `rgb(${colorOf(heat[b])})`;
    spans[b].style.color = !faded && heat[b] > 0.6 ? '#fff' : '';
    const first = b * trace.blockTokens;
    spans[b].title = `tokens ${first}-${first + trace.blockTokens - 1}: read by ${Math.round(100 * heat[b])} % of the layers`;
  }
  [...$('reply').children].forEach((span, i) => span.classList.toggle('chosen', i === chosen));
  const share = (100 * read / count).toFixed(1);
  $('hint').textContent = chosen < 0
    ? `All tokens together read ${share} % of the context on average. Point at a token to see what it read, click to go there; arrow keys walk.`
    : `"${steps[chosen].text.trim() || '\u23ce'}" (token ${chosen + 1} of ${steps.length}) read ${share} % of the context` +
      (steps[chosen].dense ? ': all of it, densely.' : '.');
  drawMap();
}

function choose(step) {
  chosen = Math.max(-1, Math.min(steps.length - 1, step));
  paint();
}

// Brings the block into view that the step read most, besides what every token reads.
function show(step) {
  choose(step);
  let best = -1;
  for (let b = 0; b < count; ++b)
    if (!always[b] && (best < 0 || heats[chosen][b] > heats[chosen][best])) best = b;
  if (best >= 0) $('context').children[best].scrollIntoView({ block: 'center' });
}

function setUp() {
  document.title = trace.title + ' \u00b7 spotd trace';
  $('title').textContent = trace.title;
  $('facts').innerHTML = `<b>${steps.length}</b> tokens answered from a context of <b>${steps.length ? steps[steps.length - 1].position : 0}</b>` +
    ` tokens, <b>${trace.layers}</b> layers, blocks of <b>${trace.blockTokens}</b>` +
    (trace.dropped ? `, <b>${trace.dropped}</b> later tokens not recorded` : '');
  $('last').textContent = count * trace.blockTokens + ' tokens';
  steps.forEach((step, i) => {
    const span = document.createElement('span');
    span.textContent = step.text;
    span.onmouseenter = () => choose(i);
    span.onclick = () => show(i);
    $('reply').append(span);
  });
  $('reply').onmouseleave = () => choose(-1);
  $('context').classList.toggle('grid', trace.texts.length === 0);
  for (let b = 0; b < count; ++b) {
    const span = document.createElement('span');
    const text = trace.texts[b];
    span.textContent = text !== undefined ? text : trace.texts.length ? ` [${b * trace.blockTokens}\u2026] ` : b * trace.blockTokens;
    $('context').append(span);
  }
  $('layer').max = trace.layers;
  $('layer').oninput = () => {
    layer = +$('layer').value;
    $('layer-name').textContent = layer ? layer - 1 : 'all';
    measure();
    paint();
  };
  $('dim').onchange = paint;
  $('map').onmousemove = event => choose(Math.floor(steps.length * event.offsetY / $('map').clientHeight));
  $('map').onmouseleave = () => choose(-1);
  window.onresize = drawMap;
  window.onkeydown = event => {
    if (event.key === 'ArrowRight') choose(chosen + 1);
    if (event.key === 'ArrowLeft') choose(chosen - 1);
    if (event.key === 'Escape') choose(-1);
  };
  $('layer').oninput();
  const asked = /^#token=(\d+)$/.exec(location.hash);
  if (asked) show(+asked[1]);
  document.body.dataset.ready = steps.length;
}
setUp();
)js";

}  // namespace spotd::spotctl
