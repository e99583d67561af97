/**
 * The past on a WebGPU device: per layer keys and values of [R, H, P, d] that never leave it. A step reads rows of
 * them by number and gives them back with its own keys and values written in, as new buffers: the provider writes
 * nothing in place. The host's arrays stay the truth; a row that the device does not hold is uploaded from there.
 * Shapes: L layers, H heads, d head width, P positions, R rows, S sequences, T tokens.
 */
import { powerOfTwo } from "../../shared/math/power-of-two.ts";
import { DeviceRows } from "./device-rows.ts";
import { isFiniteRow } from "./finite-rows.ts";
import { GraphBuilder } from "./graph.ts";
import { names } from "./graph-names.ts";
import { openSession, type Session, type SessionResults, type Tensor, tensor } from "./session.ts";
import type { ModelShape, StepInput } from "./step.ts";

const minRows = 4;
const minPositions = 64;
const grown = "grown";

/** What a step reads the past from. */
export interface PastFeed {
  feeds: Record<string, Tensor>;
  /** P */
  positions: number;
  /** Takes what the step gives back. */
  take: (results: SessionResults) => void;
}

/** Opens what uploads rows. */
export async function createWebgpuPast(config: ModelShape): Promise<WebgpuPast> {
  const { kvHeads: H, headWidth: d } = config;
  const writer = await openSession(writerGraph(H, d), { threads: 1, device: "webgpu", onDevice: [grown] });
  return new WebgpuPast(config, writer);
}

export class WebgpuPast {
  readonly #config: ModelShape;
  readonly #writer: Session;
  /** Keys at 2l, values at 2l + 1; empty until the first step, and whenever the size changes. */
  #tensors: Tensor[] = [];
  #rows = new DeviceRows(0);
  #positions = 0; // P
  #unnamed = 0;

  constructor(config: ModelShape, writer: Session) {
    this.#config = config;
    this.#writer = writer;
  }

  /** Brings the step's rows to the device. */
  async feed(input: StepInput): Promise<PastFeed> {
    const { tokens: T, pastLengths } = input;
    const { layers, kvHeads: H, contextTokens } = this.#config;
    // Rows without a name are new each time. Names of the host are not negative.
    const fed = input.pastRows?.fed ?? Array.from(pastLengths, () => --this.#unnamed);
    const kept = input.pastRows?.kept ?? fed;
    const longest = pastLengths.reduce((max, length) => Math.max(max, length), 0);
    this.#reserve(new Set([...kept, ...fed]).size, Math.min(longest + T, contextTokens));
    const { rows, missing } = this.#rows.place(fed, pastLengths, kept);
    if (missing.length > 0 || this.#tensors.length === 0) await this.#upload(input, rows, missing);

    const feeds: Record<string, Tensor> = {
      [names.pastRows]: tensor(Int32Array.from(rows), [rows.length]),
      [names.writeAt]: tensor(this.#places(rows, pastLengths, T), [rows.length, H, T, 3]),
    };
    for (let l = 0; l < layers; l++) {
      feeds[names.pastKey(l)] = this.#tensors[2 * l];
      feeds[names.pastValue(l)] = this.#tensors[2 * l + 1];
    }
    const take = (results: SessionResults) => {
      this.#replace(this.#tensors.map((_, i) => results[names.grown(i)]));
      fed.forEach((name, s) => {
        this.#rows.hold(name, Math.min(pastLengths[s] + T, contextTokens));
      });
      this.#forgetUnlessFinite(results[names.present].data as Float32Array, fed.length, T);
    };
    return { feeds, positions: this.#positions, take };
  }

  async release(): Promise<void> {
    this.#replace([]);
    await this.#writer.release();
  }

  /** Makes room for `rows` and `positions`. A new size starts empty. */
  #reserve(rows: number, positions: number): void {
    const P = Math.min(powerOfTwo(positions, minPositions), this.#config.contextTokens);
    if (rows <= this.#rows.capacity && P <= this.#positions) return;
    this.#rows = new DeviceRows(Math.max(powerOfTwo(rows, minRows), this.#rows.capacity));
    this.#positions = Math.max(P, this.#positions);
    this.#replace([]);
  }

  /** Writes the past of the `missing` of the step's sequences into their rows, over zeros where there is nothing yet. */
  async #upload(input: StepInput, rows: readonly number[], missing: readonly number[]): Promise<void> {
    const { layers, kvHeads: H, headWidth: d } = this.#config;
    const P = this.#positions;
    const R = this.#rows.capacity;
    const isNew = this.#tensors.length === 0;
    const zeros = isNew ? tensor(new Float32Array(R * H * P * d), [R, H, P, d]) : null;
    // New tensors have to be made even where there is nothing to write: any row will do.
    const written = missing.length > 0 ? missing.map((s) => rows[s]) : [0];
    const at = tensor(Int32Array.from(written), [written.length, 1]);
    const next: Tensor[] = [];
    for (let i = 0; i < 2 * layers; i++) {
      const fresh = new Float32Array(written.length * H * P * d);
      missing.forEach((s, m) => {
        for (let h = 0; h < H; h++) {
          const from = (s * H + h) * input.pastTokens * d;
          const head = input.past[i].subarray(from, from + input.pastLengths[s] * d);
          fresh.set(head, (m * H + h) * P * d);
        }
      });
      const past = zeros ?? this.#tensors[i];
      const results = await this.#writer.run({ past, at, fresh: tensor(fresh, [written.length, H, P, d]) });
      next.push(results[grown]);
    }
    this.#replace(next);
  }

  /**
   * Drops the device's copy where a row of the step is not finite: a new sequence gets a row as the last one left it, and
   * the mask only adds to a score. The host's arrays, which hold no such value, are uploaded for the next step.
   */
  #forgetUnlessFinite(present: Float32Array, sequences: number, tokens: number): void {
    const { layers, kvHeads: heads } = this.#config;
    const shape = { arrays: 2 * (layers + 1), sequences, heads, tokens };
    const rows = Array.from({ length: sequences }, (_, s) => s);
    if (rows.every((s) => isFiniteRow(present, shape, s, tokens))) return;
    this.#rows = new DeviceRows(this.#rows.capacity);
    this.#replace([]);
  }

  #replace(tensors: Tensor[]): void {
    for (const old of this.#tensors) old.dispose();
    this.#tensors = tensors;
  }

  /**
   * Where each new key and value goes, [S, H, T, (row, head, position)]. Padding beyond the context, as there is beside
   * longer chunks, goes to its last position, which no later token can read.
   */
  #places(rows: readonly number[], pastLengths: Int32Array, T: number): Int32Array {
    const H = this.#config.kvHeads;
    const places = new Int32Array(rows.length * H * T * 3);
    let i = 0;
    rows.forEach((row, s) => {
      for (let h = 0; h < H; h++) {
        for (let t = 0; t < T; t++) {
          places[i++] = row;
          places[i++] = h;
          places[i++] = Math.min(pastLengths[s] + t, this.#positions - 1);
        }
      }
    });
    return places;
  }
}

/** past [R, H, P, d] with the rows `at` [M, 1] replaced by `fresh` [M, H, P, d]. */
function writerGraph(H: number, d: number): Uint8Array {
  const g = new GraphBuilder("past-writer");
  const past = g.input("past", "float32", ["R", H, "P", d]);
  const at = g.node("Cast", [g.input("at", "int32", ["M", 1])], { to: 7 });
  const fresh = g.input("fresh", "float32", ["M", H, "P", d]);
  g.output(grown, g.node("ScatterND", [past, at, fresh]), "float32", ["R", H, "P", d]);
  return g.bytes();
}
