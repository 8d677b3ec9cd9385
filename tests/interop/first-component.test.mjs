// Builds the chat in docs/first-component.md, as it stands there, and chats with it.

import { testChat } from "./chat.mjs";
import { Project } from "./project.mjs";

testChat("the chat in Rust", createChat, /request failed: /);

async function createChat() {
  const project = await Project.fromPage("The project");
  await project.prepareCargo();
  return project;
}
