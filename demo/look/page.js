// Pasting a picture, or dropping one beside the box, anywhere on the page. Both hand it to the
// picture box's own file input, so that there is one way in. And no buttons that do nothing.
(() => {
  // Gradio's say nothing where there is no camera, nor where the browser gives a page neither
  // camera nor clipboard: at http://ANOTHER-HOST. (Ctrl + V is pasted there, too.)
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
  // A drop that no box has taken would make the browser leave the page to show the file.
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (event.defaultPrevented) return;
    event.preventDefault();
    handOver(event.dataTransfer?.files ?? []);
  });
})();
