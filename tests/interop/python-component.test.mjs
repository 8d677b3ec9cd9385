// Builds the chat in Python in docs/first-component.md, as it stands there, and chats with it.

import { testChat } from "./chat.mjs";
import { Project } from "./project.mjs";

testChat("the chat in Python", createChat, /Traceback/);

async function createChat() {
  const project = await Project.fromPage("The same in Python");
  // It has the same page as the one in Rust.
  const rust = await Project.fromPage("The project");
  await project.write("index.html", await rust.read("index.html"));
  await rust.remove();
  return project;
}
