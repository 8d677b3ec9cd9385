// The list of shortcuts.

/** Opens `dialog` by `button` and by the key `?`. */
export function helpBy(button, dialog) {
  const open = () => {
    if (!dialog.open) dialog.showModal();
  };
  button.addEventListener("click", open);
  dialog.querySelector("button").addEventListener("click", () => dialog.close());
  // A click beside it is one on the dialog itself, not on what is in it.
  dialog.addEventListener("click", ({ target }) => {
    if (target === dialog) dialog.close();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "?" || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    open();
  });
}
