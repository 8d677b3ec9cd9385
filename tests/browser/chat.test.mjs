// The page of the chat in docs/first-component.md, which this builds as it stands there.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Project } from "../interop/project.mjs";
import { launch, withPages } from "./browser.mjs";
import { Host, newState, removeState } from "./host.mjs";

/** Longer than a build of the component. */
const timeout = 900_000;

let project;
let stateDir;
let host;
let browser;

before(
  async () => {
    project = await Project.fromPage("The project");
    await project.prepareCargo();
    await project.build();
    stateDir = await newState();
    host = await start("127.0.0.1:0");
    browser = await launch();
  },
  { timeout },
);

after(async () => {
  await browser?.close();
  await host?.stop();
  if (stateDir) await removeState(stateDir);
  await project?.remove();
});

function start(listen) {
  return Host.start({ stateDir, from: project.folder, listen });
}

/** Types a message, and sends it. */
async function say(page, text) {
  await page.getByRole("textbox").fill(text);
  await page.getByRole("button", { name: "Send" }).click();
}

/** Waits until the page shows exactly these messages. */
const shows = (page, texts) =>
  page.waitForFunction(
    (wanted) => {
      const items = [...document.querySelectorAll("li")].map((item) => item.textContent);
      return JSON.stringify(items) === JSON.stringify(wanted);
    },
    texts,
    { timeout: 60_000 },
  );

test("pages chat, and catch up after a lost connection", { timeout }, async () => {
  await withPages(browser, "chat", 2, {}, async ([one, other], problems) => {
    for (const page of [one, other]) await page.goto(host.url);
    await say(one, "hello <b>you</b>");
    for (const page of [one, other]) await shows(page, ["hello <b>you</b> ♥ 0"]);
    await other.getByRole("button", { name: "♥ 0" }).click();
    for (const page of [one, other]) await shows(page, ["hello <b>you</b> ♥ 1"]);
    assert.deepEqual(problems, []);

    const { address } = host;
    await host.kill();
    for (const page of [one, other]) await page.getByText(/^(dis)?connect/).waitFor();
    host = await start(address);
    // Both pages connect again. One of them may be too late for the publication.
    await one.waitForFunction(() => document.querySelector("[role=status]").textContent === "");
    await say(one, "still there?");
    for (const page of [one, other]) await shows(page, ["hello <b>you</b> ♥ 1", "still there? ♥ 0"]);
  });
});
