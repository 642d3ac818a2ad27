// The map over its image, in the colours of differnet_ray/results/overlay.py, so that page and reports look alike.

const SIDE = 256; // pixels of the canvas, which is stretched over the image
const VMAX = 4; // contours
const INFERNO = [
  0x932567, 0xa12b61, 0xaf315b, 0xbd3753, 0xc93f4a, 0xd54940, 0xdf5436, 0xe8612b, 0xf06f1f,
  0xf57e14, 0xf98e08, 0xfb9e07, 0xfbb014, 0xfac128, 0xf6d33f, 0xf2e45d, 0xf2f381, 0xfcfea4,
].map((hex) => [hex >> 16, (hex >> 8) & 255, hex & 255]);

/** Draws rows of values, of which 1 is what 1 % of the pixels of good images exceed. */
export function drawMap(canvas, values) {
  canvas.width = canvas.height = SIDE;
  const contour = Math.max(1, Math.max(...values.map((row) => Math.max(...row))) / 8);
  const levels = values.map((row) => row.map((value) => Math.min(Math.max(value / contour, 0), VMAX)));
  const pixels = new ImageData(SIDE, SIDE);
  const [rows, columns] = [places(values.length), places(values[0].length)];
  rows.forEach(([y, nextY, partY], i) => columns.forEach(([x, nextX, partX], j) => {
    const between = (row) => row[x] * (1 - partX) + row[nextX] * partX;
    const level = between(levels[y]) * (1 - partY) + between(levels[nextY]) * partY;
    const strength = Math.max(level - 1, 0) / (VMAX - 1);
    const alpha = 0.04 * Math.min(level, 1) + 0.68 * strength ** 0.6;
    pixels.data.set([...colour(strength), 255 * alpha], 4 * (i * SIDE + j));
  }));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/** For each pixel of the canvas the two cells that it lies between, and how far from the first. */
function places(cells) {
  return Array.from({ length: SIDE }, (_, pixel) => {
    const at = Math.min(Math.max(((pixel + 0.5) * cells) / SIDE - 0.5, 0), cells - 1);
    const first = Math.floor(at);
    return [first, Math.min(first + 1, cells - 1), at - first];
  });
}

function colour(strength) {
  const at = strength * (INFERNO.length - 1);
  const first = Math.min(Math.floor(at), INFERNO.length - 2);
  return INFERNO[first].map((channel, i) => channel + (INFERNO[first + 1][i] - channel) * (at - first));
}
