// Lets users paste or drop a picture anywhere on the page. Both hand it to the file input of the
// picture box, so that there is one way in. It also hides the buttons that would do nothing, and
// sorts tables.
(() => {
  // Gradio's buttons do nothing where there is no camera, and where the browser gives the page
  // neither camera nor clipboard, as at http://ANOTHER-HOST. (Ctrl + V works there, too.)
  const without = (what) => document.documentElement.classList.add(`without-${what}`);
  if (!navigator.clipboard?.read) without("clipboard");
  (async () => {
    const devices = (await navigator.mediaDevices?.enumerateDevices().catch(() => [])) ?? [];
    if (!devices.some((device) => device.kind === "videoinput")) without("camera");
  })();
  const handOver = (files) => {
    const input = document.querySelector("#picture-input input[type=file]");
    const picture = [...files].find((file) => file.type.startsWith("image/"));
    if (!input || !picture || !input.closest("#picture-input").offsetParent) return false;
    const transfer = new DataTransfer();
    transfer.items.add(picture);
    input.files = transfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
    return true;
  };
  // A click on a column's title sorts the table by it, and another one the other way round.
  document.addEventListener("click", (event) => {
    const head = event.target.closest?.(".skd table.sorts thead button")?.closest("th");
    if (!head) return;
    const heads = [...head.parentNode.children];
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => {
      const cell = row.children[heads.indexOf(head)];
      const data = cell.querySelector("data");
      return data ? Number(data.value) : cell.textContent;
    };
    const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b));
    const body = head.closest("table").tBodies[0];
    const rows = [...body.rows].sort((a, b) => compare(key(a), key(b)) * (down ? -1 : 1));
    body.append(...rows);
  });
  document.addEventListener("paste", (event) => {
    if (handOver(event.clipboardData?.files ?? [])) event.preventDefault();
  });
  // If no box took a dropped file, the browser would leave the page to show the file.
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (event.defaultPrevented) return;
    event.preventDefault();
    handOver(event.dataTransfer?.files ?? []);
  });
})();
