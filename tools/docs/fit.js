// Equations that are too wide shrink, down to two thirds, before they scroll.
function fitEquations() {
  for (const box of document.querySelectorAll('div.math')) {
    const math = box.querySelector('mjx-container');
    if (!math) continue;
    math.dataset.size ??= parseFloat(math.style.fontSize) || 100;
    math.style.fontSize = `${math.dataset.size}%`;
    const share = box.clientWidth / Math.max(math.offsetWidth, box.scrollWidth);
    if (share < 1) math.style.fontSize = `${math.dataset.size * Math.max(0.98 * share, 2 / 3)}%`;
  }
}
window.addEventListener('load', () => window.MathJax?.startup?.promise?.then(() => setTimeout(fitEquations)));
window.addEventListener('resize', fitEquations);

// A figure that is shown smaller than it is opens at its own size; a click anywhere closes it.
function openFigure(image) {
  const dialog = document.body.appendChild(document.createElement('dialog'));
  dialog.className = 'zoom';
  dialog.append(Object.assign(new Image(), {src: image.src, alt: image.alt}));
  dialog.addEventListener('click', () => dialog.close());
  dialog.addEventListener('close', () => dialog.remove());
  dialog.showModal();
}
window.addEventListener('load', () => {
  for (const image of document.querySelectorAll('.bd-article img:not(.banner)')) {
    if (image.naturalWidth <= 1.15 * image.clientWidth || image.closest('a')) continue;
    image.classList.add('zooms');
    image.title = 'Show larger';
    image.addEventListener('click', () => openFigure(image));
  }
});
