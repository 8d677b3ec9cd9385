// The chime: when it rings, and that it does not when nobody can hear it.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { Chime } from "../../../static/chime.js";
import { settled } from "./support.mjs";

/** What the browser gives, as far as the chime looks. */
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
/** Whether a page may sound that nobody has touched. */
let isKiosk;
let kept;
let button;
let page;

/** A page that is loaded. */
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
  kept = new Map();
  set("AudioContext", Context);
  set("GainNode", Node);
  set("OscillatorNode", Node);
  set("navigator", { userActivation: { hasBeenActive: true } });
  set("localStorage", { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value) });
});

afterEach(() => {
  for (const name of ["AudioContext", "GainNode", "OscillatorNode", "navigator", "localStorage", "addEventListener"]) {
    delete globalThis[name];
    if (before[name]) Object.defineProperty(globalThis, name, before[name]);
  }
});

test("it rings when it is turned on, and then for orders", async () => {
  const chime = load();
  chime.ring();
  assert.equal(contexts.length, 0, "off until asked");
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

test("it rings once in a second", async () => {
  const chime = load();
  await click();
  const [context] = contexts;
  for (let ms = 0; ms < 3_000; ms += 20) {
    context.currentTime = ms / 1000;
    chime.ring();
  }
  assert.equal(context.started, 6);
});

test("nothing is kept for later while it cannot be heard", async () => {
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

test("it is found as it was left, and says that it waits for a touch to sound", async () => {
  load();
  await click();
  assert.ok(!button.isMute);
  navigator.userActivation.hasBeenActive = false;
  const chime = load();
  assert.ok(chime.isOn && button.isMute);
  chime.ring();
  const [, context] = contexts;
  assert.equal(context.resumed, 0, "browsers grumble when it tries");
  navigator.userActivation.hasBeenActive = true;
  page.dispatchEvent(new Event("click"));
  await settled();
  assert.ok(!button.isMute);
  chime.ring();
  assert.equal(context.started, 2);
  await click();
  assert.ok(!load().isOn);
});

test("a touch on the button itself makes it sound before it turns it off", async () => {
  load();
  await click();
  const chime = load();
  assert.ok(button.isMute);
  await click();
  assert.ok(chime.isOn && !button.isMute);
  await click();
  assert.ok(!chime.isOn);
});

test("a page that may sound untouched does", async () => {
  load();
  await click();
  isKiosk = true;
  navigator.userActivation.hasBeenActive = false;
  const chime = load();
  assert.ok(!button.isMute);
  chime.ring();
  assert.equal(contexts[1].started, 2);
});

test("where nothing can be kept it works as well", async () => {
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
