/** A feed-forward network with gradients in closed form. */

/** Computes W·x + b. */
interface Layer {
  w: Float32Array; // [outputs, inputs], row-major
  b: Float32Array; // [outputs]
}

export type Activation = (x: number) => readonly [value: number, slope: number];

/** Layers (w1, b1), (w2, b2), … of named parameters or of their gradients. */
export function layersOf(values: ReadonlyMap<string, Float32Array>, count: number): Layer[] {
  return Array.from({ length: count }, (_, i) => ({ w: values.get(`w${i + 1}`)!, b: values.get(`b${i + 1}`)! }));
}

/** The activation follows every layer except the last. */
export function networkPass(layers: readonly Layer[], input: Float32Array, activate: Activation) {
  const inputs = [input]; // of each layer
  const slopes: Float32Array[] = [];
  let output = affine(layers[0], input);
  for (const layer of layers.slice(1)) {
    const activated = Array.from(output, (x) => activate(x));
    slopes.push(Float32Array.from(activated, ([, slope]) => slope));
    inputs.push(Float32Array.from(activated, ([value]) => value));
    output = affine(layer, inputs[slopes.length]);
  }
  return {
    output,
    /** Adds gradients to `sums`. `dOutput` is the gradient of the output. */
    backward(dOutput: Float32Array, sums: readonly Layer[]): void {
      let d = dOutput;
      for (let i = layers.length - 1; i >= 0; i--) {
        const x = inputs[i];
        const dInput = new Float32Array(x.length);
        for (const [row, gradient] of d.entries()) {
          sums[i].b[row] += gradient;
          for (let column = 0, at = row * x.length; column < x.length; column++, at++) {
            sums[i].w[at] += gradient * x[column];
            dInput[column] += gradient * layers[i].w[at];
          }
        }
        if (i > 0) d = dInput.map((value, unit) => value * slopes[i - 1][unit]);
      }
    },
  };
}

function affine({ w, b }: Layer, x: Float32Array): Float32Array {
  return b.map((bias, row) => {
    let sum = bias;
    for (let i = 0, at = row * x.length; i < x.length; i++, at++) sum += w[at] * x[i];
    return sum;
  });
}
