// Lets users paste or drop a picture anywhere on the page. Both hand it to the file input of the
// picture box, so that there is one way in. It also hides the buttons that would do nothing.
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
