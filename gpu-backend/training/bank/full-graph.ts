/**
 * The training step of the full kind as one ONNX graph: each window's input makes a low-rank pair of its own,
 *
 *   z₁ = m₁ ⊙ relu(w1·(√P·e) + b1),  z₂ = m₂ ⊙ relu(w2·z₁ + b2),  [A | B] = w3·z₂ + b3
 *
 * m₁ and m₂ are dropout masks (ones without dropout). Gradients in closed form; the head's part is training-graph.ts.
 * The S windows' pairs stand one under the other, Q = S·R rows, and given gates [N, Q] leave each token its own.
 */
import { GraphBuilder } from "../../runtime/graph.ts";
import type { FullShape } from "./parameters.ts";
import { addHead, addTokenInputs, type HeadWeights } from "./training-graph.ts";

/**
 * Inputs: hidden [N, D], targets [N], weight [], gates [N, S·R], embeddings [S, P], masks m1 [S, H₁] and m2 [S, H₂], the
 * parameters. Outputs: nll [N] and d_<parameter>, scaled by `weight`.
 */
export function buildFullTrainingGraph(head: HeadWeights, shape: FullShape): Uint8Array {
  const { hiddenSize: D, vocabularySize: V } = head;
  const { rank: R, dimensions: P } = shape;
  const [H1, H2] = shape.hidden;
  const values = R * (D + V);
  const g = new GraphBuilder("full-training-step");
  const tokens = addTokenInputs(g, D);
  const gates = g.input("gates", "float32", ["N", "Q"]);
  const embeddings = g.input("embeddings", "float32", ["S", P]);
  const [m1, m2] = [g.input("m1", "float32", ["S", H1]), g.input("m2", "float32", ["S", H2])];
  const [w1, b1] = [g.input("w1", "float32", [H1, P]), g.input("b1", "float32", [H1])];
  const [w2, b2] = [g.input("w2", "float32", [H2, H1]), g.input("b2", "float32", [H2])];
  const [w3, b3] = [g.input("w3", "float32", [values, H2]), g.input("b3", "float32", [values])];

  const input = g.node("Mul", [embeddings, g.scalar(Math.sqrt(P))]);
  const layer = (x: string, w: string, b: string, mask: string) => {
    const pre = g.node("Gemm", [x, w, b], { transB: 1 });
    const open = g.node("Cast", [g.node("Greater", [pre, g.scalar(0)])], { to: 1 });
    const slope = g.node("Mul", [open, mask]); // of z by pre
    return { z: g.node("Mul", [pre, slope]), slope };
  };
  const first = layer(input, w1, b1, m1);
  const second = layer(first.z, w2, b2, m2);
  const made = g.node("Gemm", [second.z, w3, b3], { transB: 1 }); // [S, R·(D + V)]
  const part = (from: number, to: number, width: number) => {
    const columns = g.node("Slice", [made, g.integers(from), g.integers(to), g.integers(1)]);
    return g.node("Reshape", [columns, g.integers(-1, width)]);
  };
  const a = part(0, R * D, D); // [S·R, D]
  const b = part(R * D, values, V);

  const { dP, dB } = addHead(g, head, tokens, { a, b, a0: null, gates });
  const dA = g.node("Gemm", [dP, tokens.hidden], { transA: 1 });
  const dMade = g.node(
    "Concat",
    [g.node("Reshape", [dA, g.integers(-1, R * D)]), g.node("Reshape", [dB, g.integers(-1, R * V)])],
    { axis: 1 },
  );
  const sumOverWindows = (x: string) => g.node("ReduceSum", [x, g.integers(0)], { keepdims: 0 });
  g.output("d_w3", g.node("Gemm", [dMade, second.z], { transA: 1 }), "float32", [values, H2]);
  g.output("d_b3", sumOverWindows(dMade), "float32", [values]);
  const dSecond = g.node("Mul", [g.node("MatMul", [dMade, w3]), second.slope]); // [S, H₂]
  g.output("d_w2", g.node("Gemm", [dSecond, first.z], { transA: 1 }), "float32", [H2, H1]);
  g.output("d_b2", sumOverWindows(dSecond), "float32", [H2]);
  const dFirst = g.node("Mul", [g.node("MatMul", [dSecond, w2]), first.slope]); // [S, H₁]
  g.output("d_w1", g.node("Gemm", [dFirst, input], { transA: 1 }), "float32", [H1, P]);
  g.output("d_b1", sumOverWindows(dFirst), "float32", [H1]);
  return g.bytes();
}
