/* Painted times: choose when each pixel of an image is generated, and watch it happen.

   One file without dependencies. It holds the forward pass of the package's networks and the exact
   posterior mean of its low-rank mixtures, the step of DDIM at a map of times, and the page on
   which they are played with. It runs from a file, on a static site, in a notebook (anywidget) and
   in Node.
   Images are arrays of height * width * channels numbers; times are one number per pixel, 0 clean
   and 1 noise. Equations and names are those of the book: lowrank, unet, samplers, spatial. */

const AsyncPatch = (() => {
  'use strict';

  // -- files -------------------------------------------------------------------------------------

  const HALVES = new Float32Array(65536);
  for (let i = 0; i < 65536; i++) {
    const exponent = (i >> 10) & 31, fraction = i & 1023, sign = i >> 15 ? -1 : 1;
    if (exponent === 31) HALVES[i] = fraction ? NaN : sign * Infinity;
    else if (exponent) HALVES[i] = sign * 2 ** (exponent - 15) * (1 + fraction / 1024);
    else HALVES[i] = sign * 2 ** -14 * (fraction / 1024);
  }

  const READERS = {
    F16: view => Float32Array.from(new Uint16Array(view), bits => HALVES[bits]),
    BF16: view => new Float32Array(
      Uint32Array.from(new Uint16Array(view), bits => bits << 16).buffer),
    F32: view => new Float32Array(view),
    I64: view => Float32Array.from(new BigInt64Array(view), Number),
  };

  /** The bytes of a base64 text. */
  function decode(text) {
    const letters = atob(text), bytes = new Uint8Array(letters.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
    return bytes;
  }

  /** Tensors {name: {shape, data}} and the description in a safetensors file of the package. */
  function readTensors(given) {
    const bytes = new Uint8Array(given.buffer, given.byteOffset, given.byteLength);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const length = Number(view.getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
    const tensors = {}, about = JSON.parse(header.__metadata__.asyncpatch);
    delete header.__metadata__;
    for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(header)) {
      if (!READERS[dtype]) throw new Error(`${name} must be of a known precision, got ${dtype}`);
      const data = READERS[dtype](bytes.slice(8 + length + from, 8 + length + to).buffer);
      tensors[name] = { shape, data };
    }
    return { about, tensors };
  }

  /** A model from the bytes of its file. */
  function load(bytes) {
    const { about, tensors } = readTensors(bytes);
    if ((about.schedule || 'rectified_flow') !== 'rectified_flow')
      throw new Error(`schedule must be rectified_flow here, got ${about.schedule}`);
    return about.kind === 'oracle' ? new Oracle(about, tensors) : new Network(about, tensors);
  }

  // -- random numbers ----------------------------------------------------------------------------

  /** Standard normal numbers from a seed (sfc32 and Box-Muller). */
  class Normals {
    constructor(seed) {
      this.state = [0x9e3779b9, 0x243f6a88, 0xb7e15162, seed >>> 0];
      this.spare = null;
      for (let i = 0; i < 15; i++) this.uniform();
    }
    uniform() {
      const s = this.state, sum = (s[0] + s[1] + s[3]) | 0;
      s[3] = (s[3] + 1) | 0;
      s[0] = s[1] ^ (s[1] >>> 9);
      s[1] = (s[2] + (s[2] << 3)) | 0;
      s[2] = ((s[2] << 21) | (s[2] >>> 11)) + sum | 0;
      return (sum >>> 0) / 2 ** 32;
    }
    next() {
      if (this.spare !== null) {
        const spare = this.spare;
        this.spare = null;
        return spare;
      }
      const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
      const angle = 2 * Math.PI * this.uniform();
      this.spare = radius * Math.sin(angle);
      return radius * Math.cos(angle);
    }
    fill(count) {
      return Float32Array.from({ length: count }, () => this.next());
    }
  }

  // -- exact answers (book: low-rank mixtures) ---------------------------------------------------

  /** Lower triangular factor of a positive matrix (r x r), in place. */
  function cholesky(M, r) {
    for (let i = 0; i < r; i++)
      for (let j = 0; j <= i; j++) {
        let sum = M[i * r + j];
        for (let k = 0; k < j; k++) sum -= M[i * r + k] * M[j * r + k];
        M[i * r + j] = i === j ? Math.sqrt(sum) : sum / M[j * r + j];
      }
    return M;
  }

  /** x with L x = p, in place. */
  function forwardSolve(L, r, p) {
    for (let i = 0; i < r; i++) {
      for (let k = 0; k < i; k++) p[i] -= L[i * r + k] * p[k];
      p[i] /= L[i * r + i];
    }
    return p;
  }

  /** x with L' x = p, in place. */
  function backwardSolve(L, r, p) {
    for (let i = r - 1; i >= 0; i--) {
      for (let k = i + 1; k < r; k++) p[i] -= L[k * r + i] * p[k];
      p[i] /= L[i * r + i];
    }
    return p;
  }

  /** A mixture of Gaussians of covariance A A' + diag(d), each class some of its components. */
  class Oracle {
    constructor(about, tensors) {
      const { means, factors, deviation, bumps, labels, log_weights: weights } = tensors;
      const [count, size, rank] = factors.shape, fine = bumps.shape[1];
      Object.assign(this, { about, kind: 'oracle', count, size, rank: rank + fine });
      [this.channels, this.height, this.width] = about.shape;
      this.means = means.data;
      this.labels = labels.data;
      this.logWeights = weights.data;
      this.classes = Math.max(...labels.data) + 1;
      this.remainder = deviation.data.map(s => about.kept * s * s + about.least);
      this.factors = new Float64Array(count * size * this.rank);
      for (let row = 0; row < count * size; row++) {
        const texture = Math.sqrt(about.texture) * deviation.data[row];
        const pixel = row % size, to = row * this.rank;
        for (let a = 0; a < rank; a++) this.factors[to + a] = factors.data[row * rank + a];
        for (let b = 0; b < fine; b++)
          this.factors[to + rank + b] = texture * bumps.data[pixel * fine + b];
      }
      this.uncertain = true;
    }

    /** M = I + A' V^-1 A of a component at the times t, and what it says of z. */
    observe(z, t, k) {
      const { size, rank: r, factors, means, remainder } = this, from = k * size;
      const M = new Float64Array(r * r), h = new Float64Array(r);
      const precision = new Float64Array(size);
      let logDet = 0;
      for (let i = 0; i < size; i++) {
        const alpha = 1 - t[i], sigma = t[i], row = (from + i) * r;
        const w = 1 / (alpha * alpha * remainder[from + i] + sigma * sigma);
        precision[i] = w;
        logDet -= Math.log(w);
        if (!alpha) continue;
        const seen = alpha * w * (z[i] - alpha * means[from + i]);
        for (let a = 0; a < r; a++) {
          const factor = factors[row + a], scaled = alpha * alpha * w * factor;
          h[a] += seen * factor;
          for (let b = 0; b <= a; b++) M[a * r + b] += scaled * factors[row + b];
        }
      }
      for (let a = 0; a < r; a++) M[a * r + a] += 1;
      const L = cholesky(M, r);
      backwardSolve(L, r, forwardSolve(L, r, h));
      let square = 0;
      const explained = new Float64Array(size);
      for (let a = 0; a < r; a++) {
        logDet += 2 * Math.log(L[a * r + a]);
        square += h[a] * h[a];
      }
      for (let i = 0; i < size; i++) {
        let reached = 0;
        for (let a = 0; a < r; a++) reached += factors[(from + i) * r + a] * h[a];
        const rest = z[i] - (1 - t[i]) * (means[from + i] + reached);
        explained[i] = means[from + i] + reached;
        square += rest * rest * precision[i];
      }
      return { logLik: -(square + logDet) / 2, explained, precision, L };
    }

    /** Posterior mean and, where wanted, variance of every number, given z at the times t. */
    answer(z, t, label = -1, variance = false) {
      const chosen = [...Array(this.count).keys()].filter(
        k => label < 0 || this.labels[k] === label);
      const seen = chosen.map(k => this.observe(z, t, k));
      const scores = seen.map((s, i) => s.logLik + this.logWeights[chosen[i]]);
      const largest = Math.max(...scores), shares = scores.map(s => Math.exp(s - largest));
      const total = shares.reduce((a, b) => a + b, 0);
      const mean = new Float64Array(this.size), second = new Float64Array(this.size);
      chosen.forEach((k, which) => {
        const share = shares[which] / total;
        if (share < 1e-12) return;
        const { explained, precision, L } = seen[which], r = this.rank;
        for (let i = 0; i < this.size; i++) {
          const sigma = t[i], away = sigma * sigma * precision[i];
          const d = this.remainder[k * this.size + i];
          const own = sigma ? (1 - sigma) * d * precision[i] * z[i] + away * explained[i] : z[i];
          mean[i] += share * own;
          if (!variance || !sigma) continue;
          const row = (k * this.size + i) * r;
          const root = forwardSolve(L, r, this.factors.slice(row, row + r));
          let inside = 0;
          for (let a = 0; a < r; a++) inside += root[a] * root[a];
          second[i] += share * (away * away * inside + away * d + own * own);
        }
      });
      if (variance) for (let i = 0; i < this.size; i++) second[i] -= t[i] ? mean[i] * mean[i] : 0;
      return { mean: Float32Array.from(mean), variance: Float32Array.from(second) };
    }

    posteriorMean(z, t, label) {
      return this.answer(z, t, label).mean;
    }

    posteriorVariance(z, t, label) {
      return this.answer(z, t, label, true).variance;
    }
  }

  // -- the network (book: the UNet) --------------------------------------------------------------

  /** The error function, to 1.5e-7 (Abramowitz and Stegun, 7.1.26). */
  function erf(x) {
    const t = 1 / (1 + 0.3275911 * Math.abs(x));
    const p = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 +
      t * (-1.453152027 + t * 1.061405429))));
    const y = 1 - p * Math.exp(-x * x);
    return x < 0 ? -y : y;
  }

  function gelu(x) {
    const y = new Float32Array(x.length);
    for (let i = 0; i < x.length; i++) y[i] = 0.5 * x[i] * (1 + erf(x[i] * Math.SQRT1_2));
    return y;
  }

  /** x over the root of its mean square, pixel by pixel, times a gain if there is one. */
  function rmsNorm(x, channels, gain) {
    const y = new Float32Array(x.length);
    for (let p = 0; p < x.length; p += channels) {
      let sum = 0;
      for (let c = 0; c < channels; c++) sum += x[p + c] * x[p + c];
      const inverse = 1 / Math.sqrt(sum / channels + 1e-5);
      for (let c = 0; c < channels; c++) y[p + c] = x[p + c] * inverse * (gain ? gain[c] : 1);
    }
    return y;
  }

  /** out[to ...] += x[from ...] W for a matrix W (inputs x outputs) at an offset. */
  function multiply(x, from, inputs, W, at, outputs, out, to) {
    let i = 0;
    for (; i + 3 < inputs; i += 4) {
      const a = x[from + i], b = x[from + i + 1], c = x[from + i + 2], d = x[from + i + 3];
      const w = at + i * outputs;
      for (let o = 0; o < outputs; o++)
        out[to + o] += a * W[w + o] + b * W[w + outputs + o] + c * W[w + 2 * outputs + o] +
          d * W[w + 3 * outputs + o];
    }
    for (; i < inputs; i++)
      for (let o = 0; o < outputs; o++) out[to + o] += x[from + i] * W[at + i * outputs + o];
  }

  /** A layer of weights (outputs, inputs[, 3, 3]) as a matrix for each of its taps. */
  function layerOf(weight, bias) {
    const [outputs, inputs] = weight.shape, taps = weight.shape.length === 4 ? 9 : 1;
    const W = new Float32Array(weight.data.length);
    for (let o = 0; o < outputs; o++)
      for (let i = 0; i < inputs; i++)
        for (let tap = 0; tap < taps; tap++)
          W[(tap * inputs + i) * outputs + o] = weight.data[(o * inputs + i) * taps + tap];
    return { W, bias: bias.data, inputs, outputs };
  }

  function linear(x, { W, bias, inputs, outputs }) {
    const rows = x.length / inputs, y = new Float32Array(rows * outputs);
    for (let n = 0; n < rows; n++) {
      y.set(bias, n * outputs);
      multiply(x, n * inputs, inputs, W, 0, outputs, y, n * outputs);
    }
    return y;
  }

  /** A 3 x 3 convolution of features (height, width, inputs), zero outside. */
  function convolve(x, height, width, { W, bias, inputs, outputs }) {
    const y = new Float32Array(height * width * outputs);
    for (let row = 0; row < height; row++)
      for (let column = 0; column < width; column++) {
        const to = (row * width + column) * outputs;
        y.set(bias, to);
        for (let tap = 0; tap < 9; tap++) {
          const r = row + ((tap / 3) | 0) - 1, c = column + (tap % 3) - 1;
          if (r < 0 || r >= height || c < 0 || c >= width) continue;
          multiply(x, (r * width + c) * inputs, inputs, W, tap * inputs * outputs, outputs, y, to);
        }
      }
    return y;
  }

  /** Means over 2 x 2 pixels. */
  function halve(x, height, width, channels) {
    const h = height >> 1, w = width >> 1, y = new Float32Array(h * w * channels);
    for (let row = 0; row < h; row++)
      for (let column = 0; column < w; column++)
        for (let c = 0; c < channels; c++) {
          const at = (2 * row * width + 2 * column) * channels + c, below = at + width * channels;
          y[(row * w + column) * channels + c] =
            (x[at] + x[at + channels] + x[below] + x[below + channels]) / 4;
        }
    return y;
  }

  /** Every pixel four times. */
  function double(x, height, width, channels) {
    const y = new Float32Array(4 * x.length);
    for (let row = 0; row < 2 * height; row++)
      for (let column = 0; column < 2 * width; column++) {
        const from = ((row >> 1) * width + (column >> 1)) * channels;
        y.set(x.subarray(from, from + channels), (row * 2 * width + column) * channels);
      }
    return y;
  }

  /** Features of two sources side by side in every pixel. */
  function join(x, channels, y, more) {
    const pixels = x.length / channels, out = new Float32Array(pixels * (channels + more));
    for (let p = 0; p < pixels; p++) {
      out.set(x.subarray(p * channels, (p + 1) * channels), p * (channels + more));
      out.set(y.subarray(p * more, (p + 1) * more), p * (channels + more) + channels);
    }
    return out;
  }

  /** [cos, sin] of 1000 t at falling frequencies, in single precision as the package has them. */
  function sinusoids(t, width) {
    const half = width / 2, out = new Float32Array(t.length * width), fround = Math.fround;
    for (let k = 0; k < half; k++) {
      const slope = fround(fround(-Math.log(1e4) * k) / half);
      const frequency = fround(Math.exp(slope));
      for (let n = 0; n < t.length; n++) {
        const angle = fround(fround(1000 * fround(t[n])) * frequency);
        out[n * width + k] = Math.cos(angle);
        out[n * width + half + k] = Math.sin(angle);
      }
    }
    return out;
  }

  /** The different values of an array, and which of them each entry is. */
  function distinct(t) {
    const rows = new Map(), index = new Int32Array(t.length);
    t.forEach((value, n) => {
      if (!rows.has(value)) rows.set(value, rows.size);
      index[n] = rows.get(value);
    });
    return { values: Float32Array.from(rows.keys()), index };
  }

  /** The package's UNet: its prediction at a map of times, one image at a call. */
  class Network {
    constructor(about, tensors) {
      const net = about.net;
      Object.assign(this, { about, net, kind: 'network', tensors, layers: {} });
      this.channels = net.channels;
      this.classes = net.classes;
      this.prediction = about.prediction || 'v';
      if (!['v', 'x0'].includes(this.prediction))
        throw new Error(`prediction must be v or x0 here, got ${this.prediction}`);
      const size = about.size || net.size || (about.data === 'digits' ? 8 : 16);
      [this.height, this.width] = Array.isArray(size) ? size : [size, size];
      this.embedding = net.embedding || net.base;
      this.widths = net.multipliers.map(m => net.base * m);
      this.uncertain = false;
    }

    layer(name) {
      if (!this.layers[name]) {
        const weight = this.tensors[`${name}.weight`];
        this.layers[name] = layerOf(weight, this.tensors[`${name}.bias`]);
      }
      return this.layers[name];
    }

    data(name) {
      return this.tensors[name] && this.tensors[name].data;
    }

    /** Embeddings of the different times of a level, and the row of each pixel. */
    embed(t, label) {
      const { values, index } = distinct(t), width = this.embedding;
      let e = linear(sinusoids(values, width), this.layer('embed.mlp.0'));
      e = linear(gelu(e), this.layer('embed.mlp.2'));
      if (this.classes && label >= 0) {
        const vectors = this.data('embed.label.weight');
        for (let n = 0; n < e.length; n++) e[n] += vectors[label * width + (n % width)];
      }
      return { rows: gelu(e), index };
    }

    /** h times the scale of its time plus the shift. */
    film(name, h, channels, { rows, index }) {
      const scale = linear(rows, this.layer(`${name}.scale`));
      const shift = linear(rows, this.layer(`${name}.shift`));
      const y = new Float32Array(h.length);
      for (let p = 0; p < index.length; p++)
        for (let c = 0; c < channels; c++) {
          const at = p * channels + c, row = index[p] * channels + c;
          y[at] = h[at] * scale[row] + shift[row];
        }
      return y;
    }

    /** A residual block, which may change the resolution; x is {h, height, width, channels}. */
    block(name, x, e, change) {
      const gain = this.data(`${name}.norm1.gain`);
      let h = gelu(rmsNorm(x.h, x.channels, gain)), { height, width } = x, skip = x.h;
      if (change) {
        const resample = change === 'down' ? halve : double;
        h = resample(h, height, width, x.channels);
        skip = resample(skip, height, width, x.channels);
        [height, width] = [height, width].map(side => change === 'down' ? side >> 1 : 2 * side);
      }
      const first = this.layer(`${name}.conv1`), channels = first.outputs;
      h = rmsNorm(convolve(h, height, width, first), channels);
      h = gelu(this.film(`${name}.film`, h, channels, e));
      h = convolve(h, height, width, this.layer(`${name}.conv2`));
      if (this.tensors[`${name}.skip.weight`]) skip = linear(skip, this.layer(`${name}.skip`));
      for (let n = 0; n < h.length; n++) h[n] += skip[n];
      return { h, height, width, channels };
    }

    /** Queries or keys (pixels x width, at an offset in qkv) turned by their places. */
    rotate(qkv, from, stride, height, width, size) {
      const quarter = size / 4;
      for (let p = 0; p < height * width; p++)
        for (let axis = 0; axis < 2; axis++)
          for (let k = 0; k < quarter; k++) {
            const place = axis ? p % width : (p / width) | 0;
            const angle = place * 100 ** (-k / quarter);
            const at = from + p * stride + 2 * axis * quarter + k, other = at + quarter;
            const cos = Math.cos(angle), sin = Math.sin(angle), a = qkv[at], b = qkv[other];
            qkv[at] = a * cos - b * sin;
            qkv[other] = a * sin + b * cos;
          }
    }

    /** Self-attention over pixels, added to its input. */
    attend(name, x) {
      if (!this.tensors[`${name}.qkv.weight`]) return x;
      const { height, width, channels } = x, pixels = height * width, stride = 3 * channels;
      const normed = rmsNorm(x.h, channels, this.data(`${name}.norm.gain`));
      const qkv = linear(normed, this.layer(`${name}.qkv`));
      const scales = this.data(`${name}.log_scale`), heads = scales.length;
      const size = channels / heads, mixed = new Float32Array(pixels * channels);
      const share = new Float64Array(pixels);
      for (let head = 0; head < heads; head++) {
        const q = head * size, k = channels + q, v = 2 * channels + q;
        for (const [part, scale] of [[q, Math.exp(scales[head])], [k, 1]]) {
          for (let p = 0; p < pixels; p++) {
            let sum = 0;
            for (let c = 0; c < size; c++) sum += qkv[p * stride + part + c] ** 2;
            const factor = scale / Math.max(Math.sqrt(sum), 1e-12);
            for (let c = 0; c < size; c++) qkv[p * stride + part + c] *= factor;
          }
          if (this.net.rope) this.rotate(qkv, part, stride, height, width, size);
        }
        for (let p = 0; p < pixels; p++) {
          let largest = -Infinity, total = 0;
          for (let o = 0; o < pixels; o++) {
            let dot = 0;
            for (let c = 0; c < size; c++) dot += qkv[p * stride + q + c] * qkv[o * stride + k + c];
            share[o] = dot;
            largest = Math.max(largest, dot);
          }
          for (let o = 0; o < pixels; o++) total += share[o] = Math.exp(share[o] - largest);
          for (let o = 0; o < pixels; o++)
            for (let c = 0; c < size; c++)
              mixed[p * channels + q + c] += share[o] / total * qkv[o * stride + v + c];
        }
      }
      const out = linear(mixed, this.layer(`${name}.out`));
      return { ...x, h: out.map((value, n) => value + x.h[n]) };
    }

    /** Blocks of a level, each followed by attention; on the way up each first takes a skip. */
    level(name, count, x, e, skips) {
      const left = [];
      for (let n = 0; n < count; n++) {
        if (skips) {
          const other = skips.pop(), channels = x.channels + other.channels;
          x = { ...x, h: join(x.h, x.channels, other.h, other.channels), channels };
        }
        x = this.attend(`${name}.${n}.1`, this.block(`${name}.${n}.0`, x, e));
        left.push(x);
      }
      return { x, left };
    }

    resample(name, x, e, change) {
      if (this.net.resampling === 'residual') return this.block(name, x, e, change);
      const down = change === 'down';
      const h = (down ? halve : double)(x.h, x.height, x.width, x.channels);
      const [height, width] = [x.height, x.width].map(side => down ? side >> 1 : 2 * side);
      return { ...x, h, height, width };
    }

    /** What the network says of an image z at times t: its prediction, of the size of z. */
    run(z, t, label = -1, condition = null, height = this.height, width = this.width) {
      const levels = this.widths.length, embedded = [];
      let field = Float32Array.from(t), sides = [height, width];
      for (let i = 0; i < levels; i++) {
        embedded.push(this.embed(field, label));
        const [h, w] = sides;
        if (i + 1 < levels && this.net.reduction === 'nearest')
          field = field.filter((_, p) => !(p % w & 1) && !(((p / w) | 0) & 1));
        else if (i + 1 < levels) field = halve(field, h, w, 1);
        sides = [h >> 1, w >> 1];
      }
      const seen = condition ? join(z, this.channels, condition, this.net.condition) : z;
      let x = { h: convolve(seen, height, width, this.layer('first')), height, width };
      x.channels = this.net.base;
      const skips = [];
      for (let i = 0; i < levels; i++) {
        if (i) x = this.resample(`halving.${i - 1}`, x, embedded[i], 'down');
        const entered = x, done = this.level(`down.${i}`, this.net.blocks[i], x, embedded[i]);
        skips.push([entered, ...done.left]);
        x = done.x;
      }
      x = this.level('middle', this.net.middle, x, embedded[levels - 1]).x;
      for (let i = levels - 1; i >= 0; i--) {
        x = this.level(`up.${i}`, this.net.blocks[i] + 1, x, embedded[i], skips[i]).x;
        if (i) x = this.resample(`doubling.${i - 1}`, x, embedded[i - 1], 'up');
      }
      const last = gelu(rmsNorm(x.h, x.channels, this.data('last.0.gain')));
      return convolve(last, height, width, this.layer('last.2'));
    }

    /** The clean image that the prediction implies. */
    posteriorMean(z, t, label) {
      const said = this.run(z, t, label);
      if (this.prediction === 'x0') return said;
      return z.map((value, n) => value - t[(n / this.channels) | 0] * said[n]);
    }

    /** Expected squared error, from a network trained to predict it, where one was given. */
    posteriorVariance(z, t, label) {
      const spread = this.head.run(z, t, label, this.run(z, t, label));
      return spread.map((value, n) => t[n] * t[n] * Math.exp(value));
    }

    /** Give the network the one that predicts its errors. */
    withHead(head) {
      Object.assign(this, { head, uncertain: true });
      return this;
    }
  }

  // -- steps and plans (book: samplers, time maps) -----------------------------------------------

  /** A step of DDIM with stochastic coefficient c, every pixel from its t to its s <= t. */
  function update(z, x0, t, s, noise, c = 0.25) {
    const channels = z.length / t.length;
    return z.map((value, n) => {
      const from = t[(n / channels) | 0], to = s[(n / channels) | 0];
      if (from === to) return value;
      if (to === 0) return x0[n];
      const share = to / from, lost = -c * (share * (1 - from) / (1 - to) - 1);
      const b = share * (1 - lost), a = 1 - to - b * (1 - from);
      return a * x0[n] + b * value + to * Math.sqrt(Math.max(0, (2 - lost) * lost)) * noise[n];
    });
  }

  /** The state in which a run starts: data where t is 0, noise where it is 1. */
  function firstState(x, t, noise) {
    const channels = x.length / t.length;
    return noise.map((value, n) => {
      const time = t[(n / channels) | 0];
      return time === 0 ? x[n] : time === 1 ? value : (1 - time) * x[n] + time * value;
    });
  }

  /** Groups of patches 0, 1, ... in an order of that name, one number per pixel. */
  function order(name, height, width, patch = 1, random = Math.random) {
    const rows = Math.ceil(height / patch), columns = Math.ceil(width / patch);
    const cells = [...Array(rows * columns).keys()];
    const place = cell => {
      const y = (cell / columns) | 0, x = cell % columns;
      const dy = y - (rows - 1) / 2, dx = x - (columns - 1) / 2;
      if (name === 'rows') return cell;
      if (name === 'columns') return x * rows + y;
      if (name === 'diagonal') return x + y;
      return Math.hypot(dy, dx) * (name === 'outside in' ? -1 : 1);
    };
    let rank;
    if (name === 'together') rank = cells.map(() => 0);
    else if (name === 'random') {
      rank = cells.slice();
      for (let i = rank.length - 1; i > 0; i--) {
        const j = Math.floor(random() * (i + 1));
        [rank[i], rank[j]] = [rank[j], rank[i]];
      }
    } else {
      const places = cells.map(cell => Math.round(1e6 * place(cell)));
      const sorted = [...new Set(places)].sort((a, b) => a - b);
      rank = places.map(value => sorted.indexOf(value));
    }
    return Int32Array.from({ length: height * width }, (_, p) =>
      rank[(((p / width) | 0) / patch | 0) * columns + ((p % width) / patch | 0)]);
  }

  /** Turns from 0 (first) to 1 (last) of groups 0, 1, ... */
  function turnsOf(groups) {
    const last = Math.max(...groups);
    return Float32Array.from(groups, group => last ? group / last : 0);
  }

  /** The share of a run for which each of so many groups is under way. */
  function shareOf(groups, overlap) {
    return 1 / ((groups - 1) * (1 - overlap) + 1);
  }

  /** The map of times at a share u of the run: each pixel falls from its start in its turn. */
  function timesAt(start, turn, share, u) {
    return start.map((from, p) => {
      const left = u >= 1 ? 0 : (turn[p] * (1 - share) + share - u) / share;
      return from * Math.min(1, Math.max(0, left));
    });
  }

  /** The next map where certain pixels hurry: speeds from 1 (least certain) to `fastest`. */
  function hurried(t, variance, calls, fastest = 4) {
    const channels = variance.length / t.length;
    const spread = t.map((_, p) => {
      let sum = 0;
      for (let c = 0; c < channels; c++) sum += variance[p * channels + c];
      return sum / channels;
    });
    const open = [...t.keys()].filter(p => t[p] > 0).sort((a, b) => spread[a] - spread[b]);
    const next = Float32Array.from(t);
    open.forEach((p, rank) => {
      const place = open.length > 1 ? rank / (open.length - 1) : 1;
      const time = t[p] - fastest ** (1 - place) / calls;
      next[p] = time > 1e-6 ? time : 0;
    });
    return next;
  }

  /** The posterior mean guided towards a class: (1 + w) D(z, c) - w D(z). */
  function classGuided(model, z, t, label, weight) {
    const mean = model.posteriorMean(z, t, label);
    if (!weight || label < 0) return mean;
    const without = model.posteriorMean(z, t, -1);
    return mean.map((value, i) => (1 + weight) * value - weight * without[i]);
  }

  /** Guidance towards class and input: (1 + w) D(z, t) - w D(z', t') where t' = t; in z', t' the
      clean pixels are noise at time 1. The noise is drawn only where there is something to guide. */
  function guided(model, z, t, label, towardsClass, towardsInput, draw) {
    const mean = classGuided(model, z, t, label, towardsClass);
    const clean = t.some(time => time === 0), more = t.some(time => time > 0);
    if (!towardsInput || !clean || !more) return mean;
    const noise = draw(), channels = z.length / t.length;
    const known = i => t[Math.floor(i / channels)] === 0;
    const noisier = z.map((value, i) => known(i) ? noise[i] : value);
    const later = t.map(time => time === 0 ? 1 : time);
    const without = classGuided(model, noisier, later, label, towardsClass);
    return mean.map((value, i) => known(i) ? value
      : (1 + towardsInput) * value - towardsInput * without[i]);
  }

  /** A run of several draws from one plan, worked on a little at a time. */
  class Run {
    constructor(model, settings) {
      Object.assign(this, { model, ...settings });
      const numbers = model.height * model.width * model.channels;
      this.streams = [...Array(this.draws).keys()].map(n => new Normals(this.seed + n));
      this.guides = this.streams.map((_, n) => new Normals(~(this.seed + n)));
      const t = timesAt(this.start, this.turn, this.share, 0);
      const z = this.streams.map(stream => firstState(this.x, t, stream.fill(numbers)));
      this.frames = [{ z, x0: z.map(() => null), t: z.map(() => t) }];
      this.pending = null;
    }

    get done() {
      const { t } = this.frames[this.frames.length - 1];
      return this.frames.length > this.calls || t.every(map => map.every(time => time === 0));
    }

    /** The posterior mean, guided towards the class and the known pixels; `n` is the draw. */
    ask(z, t, n) {
      const { model, label, guidance, inputGuidance } = this;
      const noise = () => this.guides[n].fill(z.length);
      return guided(model, z, t, label, guidance, inputGuidance || 0, noise);
    }

    advanceOne() {
      const now = this.frames[this.frames.length - 1], n = this.pending.z.length;
      const z = now.z[n], t = now.t[n];
      const s = this.easyFirst
        ? hurried(t, this.model.posteriorVariance(z, t, this.label), this.calls)
        : timesAt(this.start, this.turn, this.share, this.frames.length / this.calls);
      const moves = s.some((time, p) => time !== t[p]);
      const x0 = moves ? this.ask(z, t, n) : now.x0[n] || z;
      const noise = moves ? this.streams[n].fill(z.length) : null;
      this.pending.z.push(moves ? update(z, x0, t, s, noise, this.stochasticity) : z);
      this.pending.x0.push(x0);
      this.pending.t.push(s);
    }

    /** Work until a frame is done, or for about so many milliseconds; whether a frame was done. */
    work(milliseconds = Infinity) {
      const until = Date.now() + milliseconds;
      if (!this.pending) this.pending = { z: [], x0: [], t: [] };
      do {
        this.advanceOne();
        if (this.pending.z.length === this.draws) {
          this.frames.push(this.pending);
          this.pending = null;
          return true;
        }
      } while (Date.now() < until);
      return false;
    }
  }

  // -- what is drawn -----------------------------------------------------------------------------

  const CLOCK = [[255, 180, 84], [255, 226, 178], [159, 178, 242], [61, 79, 143], [17, 22, 42]];
  const TURN = [[222, 246, 234], [126, 203, 176], [47, 143, 134], [15, 78, 92], [10, 38, 62]];

  /** A colour between those of a scale, for a value in [0, 1]. */
  function shade(scale, value) {
    const place = Math.min(1, Math.max(0, value)) * (scale.length - 1);
    const low = Math.min(place | 0, scale.length - 2);
    return scale[low].map((a, c) => a + (place - low) * (scale[low + 1][c] - a));
  }

  /** Colours of every pixel onto a canvas of as many pixels. */
  function draw(canvas, height, width, colour) {
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    const context = canvas.getContext('2d'), image = context.createImageData(width, height);
    for (let p = 0; p < height * width; p++) {
      const [r, g, b] = colour(p);
      image.data.set([r, g, b, 255], 4 * p);
    }
    context.putImageData(image, 0, 0);
  }

  /** The colour of a pixel of an image with values in [-1, 1]. */
  function lightOf(x, channels, p) {
    const level = c => 127.5 * (1 + Math.min(1, Math.max(-1, x[p * channels + c])));
    return channels === 3 ? [level(0), level(1), level(2)] : [level(0), level(0), level(0)];
  }

  const MASKS = {
    'nothing missing': () => false,
    everything: () => true,
    'right half': (y, x) => x >= 0.5,
    'lower half': (y, x) => y >= 0.5,
    middle: (y, x) => Math.max(Math.abs(y - 0.5), Math.abs(x - 0.5)) < 0.29,
    border: (y, x) => Math.max(Math.abs(y - 0.5), Math.abs(x - 0.5)) > 0.26,
    'every second': (y, x, row, column) => (row | column) % 2 === 1,
    'three in four, at random': (y, x, row, column, random) => random() < 0.75,
  };

  const ORDERS = {
    together: 'all pixels at once: ordinary diffusion',
    rows: 'in reading order',
    columns: 'from left to right',
    diagonal: 'corner to corner',
    'inside out': 'from the middle outwards',
    'outside in': 'from the border inwards',
    random: 'patches in a random order',
    'easy first': 'pixels that the model is sure of hurry ahead',
    painted: 'as painted on the third map',
  };

  const STYLE = `
:host { display: block; container-type: inline-size; --ink: #1c2333; --muted: #5a6276;
  --ground: #ffffff; --card: #f5f7fc; --line: #d9dfed; --accent: #3d4f8f; --spark: #b96d08;
  --on-accent: #ffffff; color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
:host([data-theme=dark]) { --ink: #e8ebf5; --muted: #a9b1c8; --ground: #11151f; --card: #1a1f2e;
  --line: #363e56; --accent: #9fb2f2; --spark: #ffb454; --on-accent: #11162a; color-scheme: dark; }
* { box-sizing: border-box; }
.root { background: var(--ground); border: 1px solid var(--line); border-radius: 14px;
  padding: 18px; display: grid; gap: 16px; grid-template-columns: minmax(0, 1fr); }
.row { display: flex; flex-wrap: wrap; gap: 10px 14px; align-items: center; }
label.field { display: grid; gap: 3px; font-size: 13px; color: var(--muted); min-width: 0; }
select { max-width: 100%; } 
select, button, .chip { font: inherit; font-size: 14px; color: var(--ink);
  background: var(--ground); border: 1px solid var(--line); border-radius: 9px;
  padding: 6px 11px; min-height: 36px; }
button { cursor: pointer; } button:hover, .chip:hover { border-color: var(--accent); }
button:disabled { opacity: .45; cursor: default; }
button.main { background: var(--accent); color: var(--on-accent); border-color: var(--accent);
  font-weight: 600; min-width: 8.2em; }
:focus-visible, .chip:has(:focus-visible) { outline: 3px solid var(--spark); outline-offset: 2px; }
.strip { display: flex; gap: 7px; overflow-x: auto; padding: 4px; scrollbar-width: thin; }
.strip button { padding: 0; border-radius: 7px; overflow: hidden; flex: none; width: 46px;
  height: 46px; border-width: 2px; } .strip canvas { width: 100%; height: 100%; display: block; }
.strip button[aria-pressed=true] { border-color: var(--spark); }
.shelf { display: flex; gap: 8px; align-items: center; } .shelf .strip { flex: 1; min-width: 0; }
button.own { border-style: dashed; white-space: nowrap; min-height: 44px; }
#draws { padding: 0 4px 4px; } #draws button { width: 58px; height: 58px; }
.bar { grid-area: bar; }
.panels { display: grid; grid-template: 'picture clocks turns' 'bar bar bar' / 1.32fr 1fr 1fr;
  gap: 14px 16px; align-items: start; } .panels figure:nth-of-type(1) { grid-area: picture; }
.panels figure:nth-of-type(2) { grid-area: clocks; }
.panels figure:nth-of-type(3) { grid-area: turns; }
figure { margin: 0; display: grid; gap: 7px; min-width: 0; }
.head { display: flex; justify-content: space-between; align-items: center; gap: 8px;
  min-height: 30px; font-weight: 600; } .small { font-size: 13px; color: var(--muted); }
.board { position: relative; border-radius: 9px; overflow: hidden; border: 1px solid var(--line);
  touch-action: none; cursor: crosshair; user-select: none; }
.board:focus-visible { outline-offset: 3px; overflow: visible; }
.board canvas { display: block; width: 100%; height: 100%; image-rendering: pixelated; }
.board canvas.over { position: absolute; inset: 0; pointer-events: none; }
.scale { height: 9px; border-radius: 5px; border: 1px solid var(--line); }
.ends { display: flex; justify-content: space-between; font-size: 12.5px; color: var(--muted); }
.toggle { display: inline-flex; border: 1px solid var(--line); border-radius: 8px;
  overflow: hidden; }
.toggle button { border: 0; border-radius: 0; min-height: 28px; padding: 2px 9px; font-size: 13px; }
.toggle button[aria-pressed=true] { background: var(--accent); color: var(--on-accent); }
input[type=range] { accent-color: var(--accent); width: 100%; min-height: 26px; margin: 0; }
.seek { flex: 1 1 180px; } .count { font-variant-numeric: tabular-nums; color: var(--muted);
  font-size: 13.5px; min-width: 9.5em; }
.cards { display: grid; grid-template-columns: repeat(3, 1fr); gap: 14px; align-items: stretch; }
fieldset { border: 1px solid var(--line); border-radius: 11px; background: var(--card); margin: 0;
  padding: 8px 14px 14px; display: grid; gap: 11px; align-content: start; min-width: 0; }
legend { font-weight: 600; padding: 0 6px; margin-left: -6px; }
.chips { display: flex; flex-wrap: wrap; gap: 6px; }
.chips button, .chip { min-height: 31px; padding: 3px 10px; font-size: 13px; }
.chip { display: inline-flex; align-items: center; cursor: pointer; }
.chip input { position: absolute; opacity: 0; width: 1px; height: 1px; }
.chip:has(:checked) { background: var(--accent); color: var(--on-accent);
  border-color: var(--accent); }
.chip:has(:disabled) { opacity: .4; cursor: default; }
.slider { display: grid; grid-template-columns: 1fr auto; gap: 0 10px; font-size: 13.5px; }
.slider input { grid-column: 1 / -1; } .slider output { font-variant-numeric: tabular-nums; }
.note { font-size: 13px; color: var(--muted); margin: 0; } .error { color: #c0392b; }
:host([data-theme=dark]) .error { color: #ff9a8b; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
kbd { font: inherit; font-size: 12px; border: 1px solid var(--line); border-radius: 4px;
  padding: 0 5px; background: var(--card); }
@container (max-width: 760px) { .cards { grid-template-columns: 1fr; }
  .panels { grid-template: 'picture picture' 'bar bar' 'clocks turns' / 1fr 1fr; } }
@container (max-width: 460px) { .root { padding: 12px; gap: 13px; } .count { min-width: 0; }
  .grow { flex: 1 1 100%; } .grow select { width: 100%; } .small.wide { display: none; } }
`;

  const PAGE = `
<div class="root" part="root">
  <div class="row">
    <label class="field grow">Model<select id="model"></select></label>
    <label class="field grow">Class<select id="label"></select></label>
    <span class="note" id="about" style="flex: 1 1 16em"></span>
  </div>
  <div class="shelf">
    <div class="strip" id="pictures" role="group" aria-label="Pictures to start from"></div>
    <button class="own" id="own">Your own …</button>
  </div>
  <div class="panels">
    <figure>
      <div class="head"><span id="t-picture">Picture</span>
        <span class="toggle" role="group" aria-label="What the picture shows">
          <button id="state" aria-pressed="true">Noisy state</button>
          <button id="guess" aria-pressed="false">Best guess</button></span></div>
      <div class="board" id="picture" tabindex="0" role="application"
        aria-roledescription="picture to paint on" aria-describedby="help"></div>
      <div class="strip" id="draws" role="group" aria-label="Draws from the same plan"></div>
    </figure>
    <figure>
      <div class="head"><span>Clocks now</span></div>
      <div class="board" id="clocks" tabindex="0" role="application"
        aria-roledescription="map of times to paint on" aria-describedby="help"></div>
      <div class="scale" id="clock-scale"></div>
      <div class="ends"><span>0 · clean</span><span>1 · noise</span></div>
      <p class="note">Paint here, or on the picture, how much of a pixel is unknown at first.</p>
    </figure>
    <figure>
      <div class="head"><span>Turns</span></div>
      <div class="board" id="turns" tabindex="0" role="application"
        aria-roledescription="map of turns to paint on" aria-describedby="help"></div>
      <div class="scale" id="turn-scale"></div>
      <div class="ends"><span>first</span><span>last</span></div>
      <p class="note">Paint here when the turn of a pixel comes.</p>
    </figure>
    <div class="row bar">
      <button class="main" id="play">▶ Generate</button>
      <button id="step" title="One call of the model (N)">Step</button>
      <button id="restart" title="Back to the start, same noise (R)">Restart</button>
      <button id="again" title="Other noise (D)">Other noise</button>
      <input class="seek" id="seek" type="range" min="0" value="0" aria-label="Moment of the run">
      <span class="count" id="count"></span>
      <button id="keep" title="Take what was generated as the picture">Keep the result</button>
    </div>
  </div>
  <p class="note error" id="error" role="alert" hidden></p>
  <div class="cards">
    <fieldset><legend>What is missing</legend>
      <div class="chips" id="masks"></div>
      <div class="chips" id="tools" role="radiogroup" aria-label="What the brush paints">
        <label class="chip"><input type="radio" name="tool" value="time" checked>Brush: time</label>
        <label class="chip"><input type="radio" name="tool" value="light">Brush: light</label></div>
      <div class="slider"><label id="value-name" for="value">Start at time</label>
        <output id="value-out" for="value"></output>
        <input id="value" type="range" min="0" max="1" step="0.05" value="1"></div>
      <div class="slider"><label for="width">Width of the brush</label>
        <output id="width-out" for="width"></output>
        <input id="width" type="range" min="1" max="9" step="1" value="3"></div>
    </fieldset>
    <fieldset><legend>Whose turn, and when</legend>
      <div class="chips" id="orders" role="radiogroup" aria-label="Order of the pixels"></div>
      <div class="slider"><label for="patch">Side of a patch</label>
        <output id="patch-out" for="patch"></output>
        <input id="patch" type="range" min="1" max="4" step="1" value="2"></div>
      <div class="slider"><label for="overlap">Overlap of turns</label>
        <output id="overlap-out" for="overlap"></output>
        <input id="overlap" type="range" min="0" max="1" step="0.05" value="0.9"></div>
      <div class="slider"><label for="turn">Turn that the brush paints</label>
        <output id="turn-out" for="turn"></output>
        <input id="turn" type="range" min="0" max="1" step="0.05" value="0"></div>
      <p class="note" id="share"></p>
    </fieldset>
    <fieldset><legend>How</legend>
      <div class="slider"><label for="calls">Calls of the model</label>
        <output id="calls-out" for="calls"></output>
        <input id="calls" type="range" min="2" max="249" step="1" value="60"></div>
      <div class="slider"><label for="guidance">Class guidance</label>
        <output id="guidance-out" for="guidance"></output>
        <input id="guidance" type="range" min="0" max="4" step="0.25" value="0"></div>
      <div class="slider"><label for="input">Input guidance</label>
        <output id="input-out" for="input"></output>
        <input id="input" type="range" min="0" max="4" step="0.25" value="0"></div>
      <div class="slider"><label for="fresh">Fresh noise in a step, c</label>
        <output id="fresh-out" for="fresh"></output>
        <input id="fresh" type="range" min="0" max="1" step="0.05" value="0.25"></div>
      <div class="slider"><label for="many">Draws</label>
        <output id="count-out" for="many"></output>
        <input id="many" type="range" min="1" max="6" step="1" value="3"></div>
    </fieldset>
  </div>
  <p class="note small wide" id="help">Drag to paint, <kbd>Shift</kbd> makes known again. By
    keyboard, on a map: arrows move, <kbd>Space</kbd> paints. Anywhere: <kbd>P</kbd> play or pause,
    <kbd>N</kbd> one step, <kbd>R</kbd> restart, <kbd>D</kbd> other noise.</p>
  <p class="hidden" id="said" role="status"></p>
  <input id="file" type="file" accept="image/*" hidden aria-label="A picture of your own">
</div>`;

  /** Numbers in single precision as base64. */
  function encode(numbers) {
    const bytes = new Uint8Array(Float32Array.from(numbers).buffer);
    let letters = '';
    for (const byte of bytes) letters += String.fromCharCode(byte);
    return btoa(letters);
  }

  /** What Python is asked: a run with everything about it. */
  function questionOf(name, settings) {
    const { share, calls, label, guidance, stochasticity, seed, draws } = settings;
    const input_guidance = settings.inputGuidance;
    const [x, start, turn] = [settings.x, settings.start, settings.turn].map(encode);
    const easy_first = settings.easyFirst;
    return { model: name, x, start, turn, share, calls, label, guidance, stochasticity, seed, draws,
      input_guidance, easy_first };
  }

  /** Frames {z, x0, t} from arrays of (frames, draws, numbers of each). */
  function framesOf(arrays, count, draws) {
    const part = (all, n, i) => {
      const numbers = all.length / (count * draws), from = (n * draws + i) * numbers;
      return all.subarray(from, from + numbers);
    };
    return [...Array(count).keys()].map(n => Object.fromEntries(['z', 'x0', 't'].map(name =>
      [name, [...Array(draws).keys()].map(i => part(arrays[name], n, i))])));
  }

  const floats = bytes => new Float32Array(new Uint8Array(
    bytes.buffer || bytes, bytes.byteOffset || 0, bytes.byteLength).slice().buffer);

  /** A run that was computed elsewhere, in Python: all frames come at once. */
  class RemoteRun extends Run {
    constructor(model, settings, ask) {
      super(model, settings);
      this.waiting = ask(questionOf(model.name, settings)).then(frames => {
        this.arrived = frames;
      }, error => { this.failed = error; });
    }
    work() {
      if (this.failed) throw this.failed;
      if (!this.arrived || !this.arrived.length) return false;
      this.frames.push(this.arrived.shift());
      return true;
    }
    get done() {
      return Boolean(this.arrived && !this.arrived.length);
    }
  }

  const SCRIPT = typeof document === 'object' && document.currentScript;
  const BESIDE = SCRIPT && SCRIPT.src ? new URL('.', SCRIPT.src).href : '';
  const FILES = () => (globalThis.asyncpatchFiles = globalThis.asyncpatchFiles || {});

  /** A file by its name: inlined in the page, or in a script beside it, read when asked for. */
  function fileOf(name, script) {
    if (FILES()[name]) return Promise.resolve(FILES()[name]);
    return new Promise((resolve, reject) => {
      const element = document.createElement('script');
      element.src = BESIDE + script;
      element.onload = () => resolve(FILES()[name]);
      element.onerror = () => reject(new Error(`${script} is not beside this page`));
      document.head.append(element);
    });
  }

  const bytesOf = file => typeof file === 'string' ? decode(file)
    : new Uint8Array(file.buffer, file.byteOffset, file.byteLength);

  /** The playground itself. */
  class Playground {
    constructor(host, options) {
      this.host = host;
      host.playground = this;
      this.options = options.server ? { remote: askServer, ...options } : options;
      this.loaded = new Map();
      this.root = host.shadowRoot || host.attachShadow({ mode: 'open' });
      this.root.innerHTML = `<style>${STYLE}</style>${PAGE}`;
      this.brush = { tool: 'time', cell: null };
      this.settings = { seed: 1, order: 'together' };
      this.follow = this.follow.bind(this);
      this.chooseTheme();
      this.build();
      this.ready = this.choose(options.models[0].name);
    }

    $(id) {
      return this.root.getElementById(id);
    }

    number(id) {
      return Number(this.$(id).value);
    }

    // .. building and listening ..

    chooseTheme() {
      const page = document.documentElement, dark = matchMedia('(prefers-color-scheme: dark)');
      const choose = () => {
        const said = this.options.theme || page.dataset.theme || page.dataset.jpThemeLight;
        const named = { true: 'light', false: 'dark' }[said] || said;
        this.host.dataset.theme = named || (dark.matches ? 'dark' : 'light');
      };
      new MutationObserver(choose).observe(page, { attributes: true });
      dark.addEventListener('change', choose);
      choose();
    }

    build() {
      const { models } = this.options;
      if (!models.length) throw new Error('options must name a model');
      for (const { name, title } of models) this.$('model').append(new Option(title, name));
      this.$('model').onchange = event => this.choose(event.target.value);
      this.$('label').onchange = () => this.changed();
      for (const name of Object.keys(MASKS)) {
        const button = document.createElement('button');
        button.textContent = name;
        button.onclick = () => this.mask(name);
        this.$('masks').append(button);
      }
      for (const [name, words] of Object.entries(ORDERS)) {
        const chip = document.createElement('label');
        chip.className = 'chip';
        chip.title = words;
        chip.innerHTML = `<input type="radio" name="order" value="${name}">${name}`;
        chip.firstChild.checked = name === this.settings.order;
        chip.firstChild.onchange = () => this.reorder(name);
        this.$('orders').append(chip);
      }
      for (const id of ['value', 'width', 'turn']) this.$(id).oninput = () => this.labels();
      for (const id of ['calls', 'guidance', 'input', 'fresh', 'many', 'overlap'])
        this.$(id).oninput = () => this.changed();
      this.$('patch').oninput = () => this.reorder(this.settings.order);
      for (const radio of this.root.querySelectorAll('[name=tool]'))
        radio.onchange = () => { this.brush.tool = radio.value; this.labels(); };
      this.$('play').onclick = () => this.playing ? this.pause() : this.play();
      this.$('step').onclick = () => this.step();
      this.$('restart').onclick = () => this.show(0);
      this.$('again').onclick = () => this.again();
      this.$('keep').onclick = () => this.keep();
      this.$('seek').oninput = event => this.show(Number(event.target.value));
      for (const id of ['state', 'guess']) this.$(id).onclick = () => this.look(id);
      for (const [id, scale] of [['clock-scale', CLOCK], ['turn-scale', TURN]]) {
        const stops = scale.map(colour => `rgb(${colour})`).join(', ');
        this.$(id).style.background = `linear-gradient(to right, ${stops})`;
      }
      this.$('own').onclick = () => this.$('file').click();
      this.$('file').onchange = event => this.own(event.target.files[0]);
      this.boards = ['picture', 'clocks', 'turns'].map(id => this.board(id));
      this.root.addEventListener('keydown', event => this.key(event));
      this.root.addEventListener('dragover', event => event.preventDefault());
      this.root.addEventListener('drop', event => {
        event.preventDefault();
        if (event.dataTransfer.files.length) this.own(event.dataTransfer.files[0]);
      });
    }

    /** A canvas to look at and to paint on, with one for outlines above it. */
    board(id) {
      const element = this.$(id), below = document.createElement('canvas');
      const over = document.createElement('canvas');
      over.className = 'over';
      element.append(below, over);
      const cell = event => {
        const box = element.getBoundingClientRect(), { height, width } = this.model;
        const row = Math.floor((event.clientY - box.top) / box.height * height);
        const column = Math.floor((event.clientX - box.left) / box.width * width);
        return [row, column];
      };
      element.addEventListener('pointerdown', event => {
        if (event.button) return;
        element.setPointerCapture(event.pointerId);
        this.brush.cell = cell(event);
        this.paint(id, this.brush.cell, event.shiftKey);
      });
      element.addEventListener('pointermove', event => {
        const before = this.brush.cell, now = this.brush.cell = cell(event);
        if (!(event.buttons & 1)) this.outline();
        else this.stroke(id, before || now, now, event.shiftKey);
      });
      element.addEventListener('pointerleave', () => {
        this.brush.cell = null;
        this.outline();
      });
      element.addEventListener('focus', () => {
        if (element.matches(':focus-visible')) this.brush.cell = this.brush.cell || [0, 0];
        this.outline();
      });
      return { id, element, below, over };
    }

    key(event) {
      const target = event.target, board = this.boards.find(b => b.element === target);
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
      if (board && (moves[event.key] || event.key === ' ')) {
        const [row, column] = this.brush.cell || [0, 0], [down, right] = moves[event.key] || [0, 0];
        const { height, width } = this.model;
        this.brush.cell = [Math.min(height - 1, Math.max(0, row + down)),
          Math.min(width - 1, Math.max(0, column + right))];
        if (event.key === ' ') this.paint(board.id, this.brush.cell, event.shiftKey);
        this.outline();
        this.say(this.describe(board.id, this.brush.cell));
        event.preventDefault();
        return;
      }
      if (target.matches && target.matches('select, input[type=file]')) return;
      const action = { p: () => this.$('play').click(), n: () => this.step(),
        r: () => this.show(0), d: () => this.again() }[event.key.toLowerCase()];
      if (action) action();
    }

    /** A pixel in words, for those who listen. */
    describe(id, [row, column]) {
      const p = row * this.model.width + column, place = `row ${row + 1}, column ${column + 1}`;
      const frame = this.run.frames[this.frame];
      if (id === 'turns') return `${place}: turn ${this.turns()[p].toFixed(2)}`;
      if (id === 'clocks') return `${place}: time ${frame.t[this.draw][p].toFixed(2)}`;
      return `${place}: ${this.start[p] ? 'missing' : 'known'}`;
    }

    say(words) {
      this.$('said').textContent = words;
    }

    // .. models and pictures ..

    async choose(name) {
      this.pause();
      this.complain('');
      const spec = this.options.models.find(model => model.name === name);
      try {
        if (!this.loaded.has(name)) this.loaded.set(name, await this.open(spec));
      } catch (error) {
        this.complain(error.message);
        this.$('model').value = this.spec ? this.spec.name : name;
        return;
      }
      this.spec = spec;
      this.model = this.loaded.get(name);
      this.$('model').value = name;
      const { height, width, classes } = this.model, label = this.$('label');
      label.replaceChildren(new Option(classes ? 'any class' : 'has no classes', -1));
      for (let c = 0; c < classes; c++)
        label.append(new Option((spec.class_names || [])[c] || `class ${c}`, c));
      label.disabled = !classes;
      this.$('about').textContent = spec.note || '';
      this.start = new Float32Array(height * width);
      this.painted = null;
      for (const { element } of this.boards) element.style.aspectRatio = `${width} / ${height}`;
      const easy = this.root.querySelector('[name=order][value="easy first"]');
      easy.disabled = !this.model.uncertain;
      if (easy.disabled && this.settings.order === 'easy first') this.settings.order = 'together';
      this.strip();
      this.take(0);
      this.reorder(this.settings.order);
      this.mask(this.spec.pictures ? 'right half' : 'everything');
    }

    /** A model of the page, with what it needs: computed here, or asked for in Python. */
    async open(spec) {
      if (spec.remote) return { ...spec, channels: spec.channels || 1 };
      const model = load(bytesOf(await fileOf(spec.file, spec.script)));
      if (spec.head) model.withHead(load(bytesOf(await fileOf(spec.head, spec.head_script))));
      return model;
    }

    strip() {
      const { pictures } = this.spec, { height, width, channels } = this.model;
      this.shelf = [];
      const numbers = height * width * channels, bytes = pictures ? decode(pictures.bytes) : [];
      for (let n = 0; n * numbers < bytes.length; n++) {
        const x = Float32Array.from(bytes.subarray(n * numbers, (n + 1) * numbers),
          level => level / 127.5 - 1);
        this.shelf.push({ x, label: pictures.labels[n] });
      }
      if (!this.shelf.length) this.shelf.push({ x: new Float32Array(numbers), label: -1 });
      const buttons = this.shelf.map(({ x, label }, n) => {
        const button = document.createElement('button'), canvas = document.createElement('canvas');
        draw(canvas, height, width, p => lightOf(x, channels, p));
        button.append(canvas);
        button.setAttribute('aria-label', `Picture ${n + 1}: ${this.nameOf(label)}`);
        button.onclick = () => this.take(n);
        return button;
      });
      this.$('pictures').replaceChildren(...buttons);
    }

    nameOf(label) {
      return label < 0 ? 'no class' : (this.spec.class_names || [])[label] || `class ${label}`;
    }

    take(n) {
      const { x, label } = this.shelf[n];
      this.x = x.slice();
      this.$('label').value = this.model.classes ? label : -1;
      [...this.$('pictures').children].forEach((button, i) =>
        button.setAttribute('aria-pressed', i === n));
      this.changed();
    }

    /** A file of the user's, its middle square at the size of the model. */
    async own(file) {
      this.complain('');
      try {
        if (!file || !file.type.startsWith('image/'))
          throw new Error(`the file must be a picture, got ${file ? file.type : 'none'}`);
        const levels = await (this.options.server ? this.sent(file) : this.opened(file));
        this.x = Float32Array.from(levels, level => level / 127.5 - 1);
        this.$('label').value = -1;
        this.unpress();
        this.changed();
      } catch (error) {
        this.complain(error.name === 'InvalidStateError'
          ? 'the file must be a picture that this browser can read' : error.message);
      }
    }

    /** Levels of a picture that the browser reads. */
    async opened(file) {
      const bitmap = await createImageBitmap(file), side = Math.min(bitmap.width, bitmap.height);
      const { height, width, channels } = this.model, canvas = document.createElement('canvas');
      [canvas.height, canvas.width] = [height, width];
      const context = canvas.getContext('2d');
      context.imageSmoothingQuality = 'high';
      context.fillStyle = '#fff';
      context.fillRect(0, 0, width, height);
      const [left, top] = [(bitmap.width - side) / 2, (bitmap.height - side) / 2];
      context.drawImage(bitmap, left, top, side, side, 0, 0, width, height);
      const { data } = context.getImageData(0, 0, width, height);
      const grey = p => 0.299 * data[4 * p] + 0.587 * data[4 * p + 1] + 0.114 * data[4 * p + 2];
      const level = n => channels === 1 ? grey(n) : data[4 * ((n / channels) | 0) + n % channels];
      return Float32Array.from({ length: height * width * channels }, (_, n) => level(n));
    }

    /** Levels of a picture that Python reads. */
    async sent(file) {
      const { height, width, channels } = this.model;
      const place = `picture?height=${height}&width=${width}&channels=${channels}`;
      return decode((await ask(place, file, 'application/octet-stream')).bytes);
    }

    unpress() {
      for (const button of this.$('pictures').children)
        button.setAttribute('aria-pressed', false);
    }

    complain(words) {
      this.$('error').textContent = words;
      this.$('error').hidden = !words;
    }

    // .. plans ..

    mask(name) {
      const { height, width } = this.model, random = new Normals(this.settings.seed + 7);
      const missing = MASKS[name];
      this.start = Float32Array.from({ length: height * width }, (_, p) => {
        const row = (p / width) | 0, column = p % width;
        const [y, x] = [(row + 0.5) / height, (column + 0.5) / width];
        return missing(y, x, row, column, () => random.uniform()) ? 1 : 0;
      });
      this.changed();
    }

    reorder(name) {
      const { height, width } = this.model, random = new Normals(this.settings.seed + 11);
      if (name === 'painted' && !this.painted) this.painted = this.turns().slice();
      this.settings.order = name;
      this.root.querySelector(`[name=order][value="${name}"]`).checked = true;
      const groups = order(ORDERS[name] && !['painted', 'easy first'].includes(name)
        ? name : 'together', height, width, this.number('patch'), () => random.uniform());
      this.ordered = turnsOf(groups);
      this.changed();
    }

    turns() {
      return this.settings.order === 'painted' ? this.painted : this.ordered;
    }

    share() {
      const groups = new Set(this.turns()).size;
      return shareOf(groups, this.number('overlap'));
    }

    paint(id, [row, column], known) {
      const { height, width, channels } = this.model, reach = this.number('width') / 2;
      if (id === 'turns' && this.settings.order !== 'painted') {
        this.painted = this.turns().slice();
        this.settings.order = 'painted';
        this.root.querySelector('[name=order][value=painted]').checked = true;
      }
      for (let y = 0; y < height; y++)
        for (let x = 0; x < width; x++) {
          if ((y - row) ** 2 + (x - column) ** 2 > Math.max(0.3, reach * reach - 0.2)) continue;
          const p = y * width + x;
          if (id === 'turns') this.painted[p] = this.number('turn');
          else if (this.brush.tool === 'light' && !known) {
            this.x.fill(2 * this.number('value') - 1, p * channels, (p + 1) * channels);
            this.start[p] = 0;
          } else this.start[p] = known ? 0 : this.number('value');
        }
      this.changed();
    }

    stroke(id, [row, column], [toRow, toColumn], known) {
      const steps = Math.max(1, Math.abs(toRow - row), Math.abs(toColumn - column));
      for (let i = 1; i <= steps; i++) {
        const at = (from, to) => Math.round(from + (to - from) * i / steps);
        this.paint(id, [at(row, toRow), at(column, toColumn)], known);
      }
    }

    /** Something about the run has changed: begin again. */
    changed() {
      if (!this.x || !this.ordered) return;
      this.pause();
      this.run = null;
      const many = this.number('many');
      if (this.$('draws').children.length !== many) this.thumbnails(many);
      this.draw = Math.min(this.draw || 0, many - 1);
      this.prepare(false);
      this.labels();
      this.show(0);
      this.host.dispatchEvent(new CustomEvent('asyncpatch-plan'));
    }

    prepare(ask) {
      const settings = {
        x: this.x, start: this.start, turn: this.turns(), share: this.share(),
        calls: this.number('calls'), label: Number(this.$('label').value),
        guidance: this.number('guidance'), inputGuidance: this.number('input'),
        stochasticity: this.number('fresh'),
        seed: this.settings.seed, draws: this.number('many'),
        easyFirst: this.settings.order === 'easy first',
      };
      const elsewhere = this.spec.remote && ask;
      this.run = elsewhere ? new RemoteRun(this.model, settings, this.options.remote)
        : new Run(this.model, settings);
      this.run.asked = !this.spec.remote || ask;
    }

    thumbnails(many) {
      const buttons = [...Array(many).keys()].map(n => {
        const button = document.createElement('button');
        button.append(document.createElement('canvas'));
        button.setAttribute('aria-label', `Draw ${n + 1}`);
        button.onclick = () => { this.draw = n; this.show(this.frame); };
        return button;
      });
      this.$('draws').replaceChildren(...buttons);
      this.$('draws').hidden = many === 1;
    }

    labels() {
      const light = this.brush.tool === 'light', value = this.number('value');
      const words = value === 0 ? 'known' : value === 1 ? 'unknown' : 'half known';
      this.$('value-name').textContent = light ? 'Light of the brush' : 'Start at time';
      this.$('value-out').value = light ? value.toFixed(2) : `${value.toFixed(2)} · ${words}`;
      for (const [id, digits] of [['width', 0], ['patch', 0], ['overlap', 2], ['turn', 2],
        ['calls', 0], ['guidance', 2], ['input', 2], ['fresh', 2]])
        this.$(`${id}-out`).value = this.number(id).toFixed(digits);
      this.$('count-out').value = this.number('many');
      const calls = this.number('calls'), own = Math.max(1, Math.round(this.share() * calls));
      const { order } = this.settings, plural = own === 1 ? 'call' : 'calls';
      this.$('share').textContent = `${ORDERS[order][0].toUpperCase()}${ORDERS[order].slice(1)}. ` +
        (order === 'easy first' ? `At most ${calls} calls.`
          : `Each pixel is under way for about ${own} ${plural} of ${calls}.`);
      this.$('guidance').disabled = Number(this.$('label').value) < 0;
    }

    // .. playing ..

    play() {
      if (this.playing) return;
      if (this.run.done && this.frame === this.run.frames.length - 1) this.again();
      if (!this.run.asked) this.prepare(true);
      this.playing = true;
      this.$('play').textContent = 'Pause';
      this.said = 0;
      requestAnimationFrame(this.follow);
    }

    pause() {
      this.playing = false;
      this.$('play').textContent = '▶ Generate';
    }

    /** One picture of the animation: the next frame if it is there, else some work on it. */
    follow(now) {
      if (!this.playing || !this.host.isConnected) return;
      try {
        const last = this.run.frames.length - 1;
        if (this.frame < last) {
          if (now - this.said > 1800 / this.run.calls || now < this.said) {
            this.said = now;
            this.show(this.frame + 1);
          }
        } else if (this.run.done) {
          this.finish();
          return;
        } else this.run.work(24);
      } catch (error) {
        this.stopped(error);
        return;
      }
      requestAnimationFrame(this.follow);
    }

    finish() {
      this.pause();
      this.say(`Finished after ${this.run.frames.length - 1} calls of the model.`);
      this.host.dispatchEvent(new CustomEvent('asyncpatch-done', { detail: this.run }));
    }

    stopped(error) {
      this.changed();
      this.complain(error.message);
    }

    async step() {
      this.pause();
      if (!this.run.asked) this.prepare(true);
      if (this.run.waiting) await this.run.waiting;
      try {
        if (this.frame === this.run.frames.length - 1 && !this.run.done)
          while (!this.run.work());
      } catch (error) {
        this.stopped(error);
        return;
      }
      this.show(this.frame + 1);
    }

    again() {
      const random = this.settings.order === 'random';
      this.settings.seed += this.number('many');
      if (random) this.reorder('random');
      else this.changed();
    }

    keep() {
      const { z } = this.run.frames[this.frame];
      this.x = z[this.draw].slice();
      this.unpress();
      this.start.fill(0);
      this.changed();
    }

    look(id) {
      for (const other of ['state', 'guess'])
        this.$(other).setAttribute('aria-pressed', other === id);
      this.guessing = id === 'guess';
      this.show(this.frame);
    }

    // .. showing ..

    show(frame) {
      const { frames, calls } = this.run, { height, width, channels } = this.model;
      this.frame = Math.min(Math.max(0, frame), frames.length - 1);
      const { z, x0, t } = frames[this.frame], [picture, clocks, turns] = this.boards;
      const seen = n => this.guessing && x0[n] ? x0[n] : z[n];
      draw(picture.below, height, width, p => lightOf(seen(this.draw), channels, p));
      draw(clocks.below, height, width, p => shade(CLOCK, t[this.draw][p]));
      const order = this.turns();
      draw(turns.below, height, width, p => this.start[p] ? shade(TURN, order[p])
        : shade(TURN, order[p]).map(c => 0.25 * c + 0.75 * 150));
      [...this.$('draws').children].forEach((button, n) => {
        button.setAttribute('aria-pressed', n === this.draw);
        draw(button.firstChild, height, width, p => lightOf(seen(n), channels, p));
      });
      this.$('seek').max = Math.max(calls, frames.length - 1);
      this.$('seek').value = this.frame;
      const end = this.run.done && this.frame === frames.length - 1;
      this.$('count').textContent = `call ${this.frame} of ${end ? this.frame : calls}`;
      this.$('keep').disabled = !end;
      this.picture();
      this.outline();
    }

    /** What the maps show, in words. */
    picture() {
      const missing = this.start.filter(time => time > 0).length, all = this.start.length;
      const name = this.nameOf(Number(this.$('label').value));
      const [picture, clocks, turns] = this.boards.map(board => board.element);
      picture.setAttribute('aria-label',
        `Picture of ${all} pixels, ${missing} missing; class: ${name}; call ${this.frame}`);
      const { t } = this.run.frames[this.frame], mean = t[this.draw].reduce((a, b) => a + b) / all;
      clocks.setAttribute('aria-label', `Map of times now, on average ${mean.toFixed(2)}`);
      turns.setAttribute('aria-label', `Map of turns: ${ORDERS[this.settings.order]}`);
    }

    /** The edge of what is missing, and the brush. */
    outline() {
      if (!this.model || !this.run) return;
      const { height, width } = this.model, style = getComputedStyle(this.host);
      for (const { element, over } of this.boards) {
        const sharp = globalThis.devicePixelRatio || 1, box = element.getBoundingClientRect();
        over.width = Math.round(box.width * sharp);
        over.height = Math.round(box.height * sharp);
        const context = over.getContext('2d');
        const [sx, sy] = [over.width / width, over.height / height];
        const missing = (row, column) => row >= 0 && row < height && column >= 0 && column < width
          ? this.start[row * width + column] > 0 : null;
        context.lineWidth = 2 * sharp;
        context.strokeStyle = '#ffb454';
        context.beginPath();
        for (let row = 0; row < height; row++)
          for (let column = 0; column < width; column++) {
            const here = missing(row, column);
            if (missing(row, column + 1) === !here) {
              context.moveTo((column + 1) * sx, row * sy);
              context.lineTo((column + 1) * sx, (row + 1) * sy);
            }
            if (missing(row + 1, column) === !here) {
              context.moveTo(column * sx, (row + 1) * sy);
              context.lineTo((column + 1) * sx, (row + 1) * sy);
            }
          }
        context.stroke();
        if (!this.brush.cell) continue;
        const [row, column] = this.brush.cell, reach = Math.max(0.5, this.number('width') / 2);
        context.strokeStyle = style.getPropertyValue('--spark') || '#ffb454';
        context.lineWidth = 2.5 * sharp;
        context.beginPath();
        context.ellipse((column + 0.5) * sx, (row + 0.5) * sy, reach * sx, reach * sy, 0, 0, 7);
        context.stroke();
      }
    }
  }

  /** Ask the server of `asyncpatch play`. */
  async function ask(place, body, kind) {
    let told;
    try {
      told = await (await fetch(place, {
        method: 'POST', headers: { 'Content-Type': kind }, body })).json();
    } catch {
      throw new Error('asyncpatch play does not answer; is it still running?');
    }
    if (told.error) throw new Error(told.error);
    return told;
  }

  /** A run that the server computes. */
  async function askServer(question) {
    const told = await ask('run', JSON.stringify(question), 'application/json'), arrays = {};
    for (const name of ['z', 'x0', 't']) arrays[name] = floats(decode(told[name]));
    return framesOf(arrays, told.frames, question.draws);
  }

  /** The playground as a widget of anywidget; its plan is known in Python as `widget.plan`. */
  function renderWidget({ model, el }) {
    let number = 0;
    const waiting = new Map();
    const hear = (told, buffers) => {
      if (told.kind !== 'frames' || !waiting.has(told.id)) return;
      const { resolve, reject, draws } = waiting.get(told.id);
      waiting.delete(told.id);
      if (told.error) return reject(new Error(told.error));
      const [z, x0, t] = buffers.map(floats);
      resolve(framesOf({ z, x0, t }, told.z[0], draws));
    };
    const remote = question => new Promise((resolve, reject) => {
      waiting.set(++number, { resolve, reject, draws: question.draws });
      model.send({ kind: 'run', id: number, question });
    });
    const rows = (map, width) => [...Array(map.length / width).keys()].map(row =>
      Array.from(map.slice(row * width, (row + 1) * width)));
    model.on('msg:custom', hear);
    Object.assign(FILES(), model.get('files'));
    const host = document.createElement('div');
    el.append(host);
    host.addEventListener('asyncpatch-plan', () => {
      const { run, model: { width } } = host.playground;
      const [start, turn] = [rows(run.start, width), rows(run.turn, width)];
      model.set('plan', { start, turn, share: run.share, calls: run.calls });
      model.save_changes();
    });
    mount(host, { ...model.get('options'), remote });
    return () => model.off('msg:custom', hear);
  }

  /** Put a playground wherever the page has a place for it. */
  function mountAll() {
    for (const host of document.querySelectorAll('.asyncpatch-playground'))
      if (!host.playground) mount(host, globalThis.asyncpatchOptions);
  }

  /** Put a playground into an element; returns it. */
  function mount(host, options) {
    new Playground(host, options);
    new ResizeObserver(() => host.playground.outline()).observe(host);
    return host.playground;
  }

  if (SCRIPT && globalThis.asyncpatchOptions)
    if (document.readyState === 'loading') addEventListener('DOMContentLoaded', mountAll);
    else mountAll();

  return {
    mount, renderWidget, Playground, decode, load, readTensors, Normals, Oracle, Network, Run,
    update, guided, firstState, order, turnsOf, shareOf, timesAt, hurried, erf, sinusoids,
  };
})();

if (typeof module !== 'undefined') module.exports = AsyncPatch;
