// Pasting a picture, or dropping one beside the box, anywhere on the page. Both hand it to the
// picture box's own file input, so that there is one way in.
(() => {
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
