// Asks the agent twice a second how it is, and four times a second for the picture of each source that is in view.

import { Chart, short } from "/charts.js";

const NOW_MS = 500, PICTURE_MS = 250, STALE_S = 3, KEPT = 600;
const KIND = {
  live: "good", ended: "", connecting: "warn", frozen: "warn", black: "warn", down: "bad",
  running: "good", starting: "warn", degraded: "warn", stopping: "warn",
};
const $ = (id) => document.getElementById(id);
const sources = new Map();
let samples = [];

// Words ------------------------------------------------------------------------------------------------------------

function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function mark(node, kind, base = "") {
  node.className = `${base} ${kind ?? ""}`.trim();
}

function span(seconds) {
  if (seconds === null || seconds === undefined) return ["–", ""];
  if (seconds < 1) return [(seconds * 1000).toFixed(0), "ms"];
  if (seconds < 10) return [seconds.toFixed(1), "s"];
  if (seconds < 120) return [seconds.toFixed(0), "s"];
  if (seconds < 7200) return [(seconds / 60).toFixed(0), "min"];
  return seconds < 172800 ? [(seconds / 3600).toFixed(0), "h"] : [(seconds / 86400).toFixed(0), "d"];
}

function figure(node, value, unit = "", kind = "") {
  const small = document.createElement("small");
  small.textContent = unit;
  node.replaceChildren(value, ...(unit ? [small] : []));
  for (const each of ["good", "warn", "bad"]) node.classList.toggle(each, each === kind);
}

function amount(value, unit) {
  if (value === null) return "unknown";
  if (unit === "bytes") {
    const [size, name] = value >= 1e9 ? [1e9, "GB"] : [1e6, "MB"];
    return `${short(value / size)} ${name}`;
  }
  return `${short(value)} ${unit}`;
}

// Sources ----------------------------------------------------------------------------------------------------------

class Source {
  constructor(name) {
    this.name = name;
    this.card = $("source").content.firstElementChild.cloneNode(true);
    for (const part of ["pill", "view", "over", "fps", "age", "seen", "what", "focus", "detail"]) {
      this[part] = this.card.querySelector(`.${part}`);
    }
    this.canvas = this.card.querySelector("canvas");
    this.card.dataset.source = name;
    set(this.card.querySelector(".name"), name);
    this.after = "";
    this.shownAt = 0;
    this.inView = true;
    new IntersectionObserver((seen) => { this.inView = seen[seen.length - 1].isIntersecting; }).observe(this.card);
    const zoom = () => document.fullscreenElement ? document.exitFullscreen() : this.card.requestFullscreen?.();
    this.view.addEventListener("click", zoom);
    this.view.addEventListener("keydown", (event) => { if (event.key === "Enter") zoom(); });
    new ResizeObserver(() => this.paint()).observe(this.canvas);
    $("sources").append(this.card);
    this.poll();
  }

  // One request after the other: a slow link makes pictures rarer, never late.
  async poll() {
    const began = performance.now();
    if (this.inView && !document.hidden) {
      try {
        await this.ask();
      } catch {
        // The banner says so: the same agent answers /now.json.
      }
    }
    if (this.card.isConnected) setTimeout(() => this.poll(), Math.max(PICTURE_MS - (performance.now() - began), 20));
  }

  async ask() {
    const answer = await fetch(`/picture/${encodeURIComponent(this.name)}?after=${this.after}`,
      { signal: AbortSignal.timeout(8000) });
    if (answer.status !== 200) return;
    const caption = JSON.parse(answer.headers.get("Vedette-Caption"));
    const picture = await createImageBitmap(await answer.blob());
    this.picture?.close();
    Object.assign(this, { picture, caption, after: caption.seq, shownAt: performance.now() - caption.age_s * 1000 });
    this.paint();
    figure(this.seen, String(caption.seen), "", caption.seen ? "good" : "");
    const labels = [...new Set(caption.boxes.map((box) => box[4]))];
    set(this.what, labels.length === 1 ? `${labels[0]} seen` : "seen");
    const sharp = Math.round(caption.sharpness * 100);
    const kind = sharp >= 90 ? "" : sharp >= 60 ? "warn" : "bad";
    const bar = this.focus.querySelector("i");
    bar.style.width = `${sharp}%`;
    mark(bar, kind);
    set(this.focus.querySelector("b"), `${sharp} %`);
    this.focus.title = "of the sharpest picture in the last minute";
  }

  // Boxes are drawn here, in the screen's own resolution: lines and labels stay readable whatever the camera's size.
  paint() {
    if (!this.picture) return;
    const { picture, caption, canvas } = this;
    const ratio = devicePixelRatio || 1;
    const width = Math.round(Math.max(canvas.clientWidth, 320) * ratio);
    const height = Math.round(width * caption.height / caption.width);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(picture, 0, 0, width, height);
    pen.font = `600 ${14 * ratio}px system-ui, sans-serif`;
    pen.textBaseline = "middle";
    for (const [x1, y1, x2, y2, label, score] of caption.boxes) {
      const [left, top, wide, high] = [x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height];
      const frame = (colour, line) => {
        Object.assign(pen, { strokeStyle: colour, lineWidth: line * ratio });
        pen.strokeRect(left, top, wide, high);
      };
      frame("rgb(0 0 0 / 55%)", 5);
      frame("#3ddc84", 2.5);
      const text = `${label} ${Math.round(score * 100)} %`;
      const tag = { wide: pen.measureText(text).width + 14 * ratio, high: 24 * ratio };
      const x = Math.min(Math.max(left - 1.25 * ratio, 0), width - tag.wide);
      const y = top - tag.high >= 0 ? top - tag.high : Math.min(top, height - tag.high);
      pen.fillStyle = "#3ddc84";
      pen.fillRect(x, y, tag.wide, tag.high);
      pen.fillStyle = "#04170c";
      pen.fillText(text, x + 7 * ratio, y + tag.high / 2 + ratio);
    }
  }

  show(now) {
    set(this.pill, now.state);
    mark(this.pill, KIND[now.state], "pill");
    figure(this.fps, now.processed_rate.toFixed(now.processed_rate < 9.95 ? 1 : 0));
    const old = now.last_frame_age_s === null ? Infinity : now.last_frame_age_s;
    figure(this.age, ...span(now.last_frame_age_s), old > STALE_S ? "bad" : old > 1 ? "warn" : "good");
    const size = now.width ? `${now.width} × ${now.height}, ` : "";
    const latency = this.caption ? `, ${short(this.caption.latency_ms)} ms from capture to result` : "";
    set(this.detail, `${size}${now.seen_rate.toFixed(1)} frames a second from the camera${latency}`);
    const pictureAge = (performance.now() - this.shownAt) / 1000;
    const stale = now.state !== "live" || !this.picture || pictureAge > STALE_S;
    this.view.classList.toggle("stale", stale);
    set(this.over, !stale ? "" : now.state !== "live" ? now.reason || now.state
      : this.picture ? `no new picture for ${span(pictureAge).join(" ")}` : "waiting for the first picture");
  }
}

// The whole ----------------------------------------------------------------------------------------------------------

const charts = {
  rate: new Chart($("chart-rate"), [1], "frames/s", 5),
  latency: new Chart($("chart-latency"), [2, 3], "ms", 10),
  spool: new Chart($("chart-spool"), [4], "events", 10),
  watts: new Chart($("chart-watts"), [5], "W", 5),
};

function showBudget(now) {
  const rows = now.budget.filter((each) => each.limit !== null || each.reading !== null).map((each) => {
    const row = document.createElement("div");
    const [name, value] = [document.createElement("span"), document.createElement("b")];
    name.textContent = each.name;
    value.textContent = amount(each.reading, each.unit) + (each.limit === null ? "" : ` of ${amount(each.limit, each.unit)}`);
    row.append(name, value);
    if (each.limit && each.reading !== null) {
      const [track, bar] = [document.createElement("div"), document.createElement("i")];
      const share = each.reading / each.limit;
      track.className = "track";
      bar.style.width = `${Math.min(share, 1) * 100}%`;
      mark(bar, share > 1 ? "bad" : share > 0.9 ? "warn" : "");
      track.append(bar);
      row.append(track);
    }
    return row;
  });
  const panel = $("budget");
  panel.querySelector(".rows").replaceChildren(...rows);
  const order = now.order;
  const words = !order ? [] : [
    order.rate === 0 ? "paused" : order.rate === null ? "no limit on the rate" : `at most ${short(order.rate)} frames/s`,
    order.quiet && `quiet hours ${order.quiet}`, order.blind && "a sensor that a limit needs tells nothing", order.why !== "start" && order.why];
  set(panel.querySelector(".quiet"), words.filter(Boolean).join(" · ") || "no limits");
}

function show(now) {
  document.title = `${now.device}: ${now.state}`;
  set($("device"), now.device);
  set($("state"), now.doing ? `${now.state}: ${now.doing}` : now.state);
  mark($("state"), KIND[now.state] ?? "bad", "pill");
  set($("uptime"), `up ${span(now.uptime_s).join(" ")}`);
  set($("version"), now.version);
  $("problems").hidden = !now.problems.length;
  $("problems").replaceChildren(...now.problems.map((problem) => {
    const line = document.createElement("li");
    line.textContent = problem;
    return line;
  }));
  for (const each of now.sources) {
    if (!sources.has(each.name)) sources.set(each.name, new Source(each.name));
    sources.get(each.name).show(each);
  }
  const last = samples.length ? samples[samples.length - 1][0] : 0;
  if (now.samples.length && now.samples[now.samples.length - 1][0] < last) samples = [];  // the box was started anew
  samples = [...samples, ...now.samples].slice(-KEPT);
  $("chart-watts").hidden = !samples.some((sample) => sample[5] !== null);
  for (const chart of Object.values(charts)) chart.draw(samples);
  const [engine, upstream] = [$("engine"), $("upstream")];
  set(engine.querySelector(".big-word"), now.engine ? now.engine.name : now.doing || "none yet");
  set(engine.querySelector(".quiet"), now.engine ? [now.engine.tier, `${now.engine.width} × ${now.engine.height}`,
    now.engine.precision, now.engine.provider.replace("ExecutionProvider", ""), now.engine.tuning].filter(Boolean).join(" · ") : "");
  showBudget(now);
  set(upstream.querySelector(".big-word"), now.upstream === "off" ? "none: reports stay in the spool" : now.upstream);
  set(upstream.querySelector(".quiet"), [now.upstream_reason,
    now.last_ack_age_s === null ? "" : `last taken ${span(now.last_ack_age_s).join(" ")} ago`].filter(Boolean).join(" · "));
}

function lost(text) {
  $("lost").hidden = !text;
  set($("lost"), text);
  document.body.classList.toggle("lost", Boolean(text));
}

async function poll() {
  let wait = NOW_MS;
  if (!document.hidden) {
    try {
      const after = samples.length ? samples[samples.length - 1][0] : 0;
      const answer = await fetch(`/now.json?after=${after}`, { signal: AbortSignal.timeout(5000) });
      if (answer.status === 401) {
        lost("The token is no longer the right one: the agent was started anew. Run vedette page on the box, and open the address it prints.");
        wait = 10000;
      } else if (answer.ok) {
        const now = await answer.json();
        lost("");
        show(now);
      } else {
        throw new Error(String(answer.status));
      }
    } catch {
      lost("The agent does not answer. What is shown is old.");
      wait = 2000;
    }
  }
  setTimeout(poll, wait);
}

poll();
