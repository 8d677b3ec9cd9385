// The chime: when it rings, and when it stays silent.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { Chime } from "../../../static/chime.js";
import { settled } from "./support.mjs";

/** A fake AudioContext. */
class Context {
  state = isKiosk ? "running" : "suspended";
  currentTime = 0;
  resumed = 0;
  started = 0;
  constructor() {
    contexts.push(this);
  }
  async resume() {
    this.resumed += 1;
    if (!isAllowed) return new Promise(() => {});
    this.state = "running";
    this.onstatechange?.();
  }
  close() {
    this.state = "closed";
  }
}

/** A fake AudioNode. */
class Node {
  constructor(context) {
    this.context = context;
    this.gain = { setValueAtTime() {}, exponentialRampToValueAtTime() {} };
  }
  connect(other) {
    return other;
  }
  start() {
    this.context.started += 1;
  }
  stop() {}
}

let contexts;
let isAllowed;
/** Whether a page may play sound without a user gesture. */
let isKiosk;
let stored;
let button;
let page;

/** Loads the page. */
function load() {
  button = Object.assign(new EventTarget(), {
    pressed: "false",
    getAttribute: () => button.pressed,
    setAttribute: (_, value) => (button.pressed = String(value)),
    isMute: false,
    classList: { toggle: (_, isMute) => (button.isMute = isMute) },
  });
  page = new EventTarget();
  set("addEventListener", page.addEventListener.bind(page));
  return new Chime(button);
}

async function click() {
  button.dispatchEvent(new Event("click"));
  await settled();
}

const before = Object.getOwnPropertyDescriptors(globalThis);

function set(name, value) {
  Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
}

beforeEach(() => {
  contexts = [];
  isAllowed = true;
  isKiosk = false;
  stored = new Map();
  set("AudioContext", Context);
  set("GainNode", Node);
  set("OscillatorNode", Node);
  set("navigator", { userActivation: { hasBeenActive: true } });
  set("localStorage", { getItem: (key) => stored.get(key) ?? null, setItem: (key, value) => stored.set(key, value) });
});

afterEach(() => {
  for (const name of ["AudioContext", "GainNode", "OscillatorNode", "navigator", "localStorage", "addEventListener"]) {
    delete globalThis[name];
    if (before[name]) Object.defineProperty(globalThis, name, before[name]);
  }
});

test("it rings when it is turned on, and for orders", async () => {
  const chime = load();
  chime.ring();
  assert.equal(contexts.length, 0, "off by default");
  await click();
  const [context] = contexts;
  assert.equal(context.started, 2);
  context.currentTime = 2;
  chime.ring();
  assert.equal(context.started, 4);
  await click();
  assert.equal(context.state, "closed");
  chime.ring();
  assert.equal(context.started, 4);
  await click();
  assert.equal(contexts[1].started, 2);
});

test("it rings at most once per second", async () => {
  const chime = load();
  await click();
  const [context] = contexts;
  for (let ms = 0; ms < 3_000; ms += 20) {
    context.currentTime = ms / 1000;
    chime.ring();
  }
  assert.equal(context.started, 6);
});

test("nothing is scheduled while the context is suspended", async () => {
  const chime = load();
  await click();
  const [context] = contexts;
  const { resumed, started } = context;
  context.state = "suspended";
  isAllowed = false;
  for (let orders = 0; orders < 100; orders += 1) {
    context.currentTime += 2;
    chime.ring();
  }
  await settled();
  assert.equal(context.started, started);
  assert.equal(context.resumed, resumed + 1);
});

test("the setting is stored, and the button shows that a gesture is needed", async () => {
  load();
  await click();
  assert.ok(!button.isMute);
  navigator.userActivation.hasBeenActive = false;
  const chime = load();
  assert.ok(chime.isOn && button.isMute);
  chime.ring();
  const [, context] = contexts;
  assert.equal(context.resumed, 0, "browsers log a warning on an attempt");
  navigator.userActivation.hasBeenActive = true;
  page.dispatchEvent(new Event("click"));
  await settled();
  assert.ok(!button.isMute);
  chime.ring();
  assert.equal(context.started, 2);
  await click();
  assert.ok(!load().isOn);
});

test("a click on the muted button unmutes it", async () => {
  load();
  await click();
  const chime = load();
  assert.ok(button.isMute);
  await click();
  assert.ok(chime.isOn && !button.isMute);
  await click();
  assert.ok(!chime.isOn);
});

test("it rings without a gesture where that is allowed", async () => {
  load();
  await click();
  isKiosk = true;
  navigator.userActivation.hasBeenActive = false;
  const chime = load();
  assert.ok(!button.isMute);
  chime.ring();
  assert.equal(contexts[1].started, 2);
});

test("it works without storage", async () => {
  Object.defineProperty(globalThis, "localStorage", {
    configurable: true,
    get() {
      throw new Error("denied");
    },
  });
  const chime = load();
  assert.ok(!chime.isOn);
  await click();
  assert.ok(chime.isOn);
  assert.equal(contexts[0].started, 2);
});
