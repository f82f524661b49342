/** The front page: turns the input into a room's name, and opens the room. */

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

// A page from the back/forward cache may show a login that has ended.
addEventListener("pageshow", ({ persisted }) => {
  if (persisted && document.getElementById("account") !== null) location.reload();
});
