/** The front page: turns what is typed into a room's name, and goes there. */

const form = document.getElementById("enter");
const field = document.getElementById("room");

/** Returns what a `{room:slug}` of the routes accepts: "Café, 2nd floor" becomes "cafe-2nd-floor". */
function slug(text) {
  return text
    .normalize("NFKD")
    .replace(/\p{Mark}/gu, "")
    .replace(/[^A-Za-z0-9_-]+/g, "-")
    .replace(/^-+|-+$/g, "");
}

field.addEventListener("input", () => field.setCustomValidity(""));

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const room = slug(field.value);
  if (room === "") {
    field.setCustomValidity("A room's name needs a letter (a to z) or a digit.");
    field.reportValidity();
    return;
  }
  location.assign(form.dataset.roomUrl.replace("__room__", room));
});

// A page that the browser kept for the way back may say that somebody is logged in who is not any more.
addEventListener("pageshow", ({ persisted }) => {
  if (persisted && document.getElementById("account") !== null) location.reload();
});
