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
