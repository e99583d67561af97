/**
 * What the engine runs passes of the model on: host-runner.ts, with keys and values in the host's memory, or device-runner.ts, with
 * keys and values on a device. Shapes: S rows of a pass, M positions that the head is computed at, D hidden.
 */
import type { HeadInput, ModelShape, RowOutput } from "../runtime/step.ts";

/** Keys, values and states of one sequence: a handle that is valid until `close`. */
export interface Kv {
  /** Positions that hold keys and values. */
  readonly positions: number;
}

/** A copy of some positions of a row, for other rows that begin with the same tokens. Read only. */
export interface KvBlock {
  readonly positions: number;
  readonly bytes: number;
  free(): void;
}

/** A position of a row. */
export interface KvPosition {
  kv: Kv;
  position: number;
}

export interface KvStore {
  readonly capacityBytes: number;
  /** Bytes allocated for all rows, parked ones included. */
  readonly bytes: number;
  /** Bytes of the positions that hold keys and values. */
  readonly usedBytes: number;
  /** Whether a prefill chunk that continues in its middle gives the same result as the chunk computed at once. */
  readonly continuesChunks: boolean;
  /** True if rows that grow to `lengths` fit beside parked ones of the lengths `parked`. Pure. */
  holds(lengths: readonly number[], parked: readonly number[]): boolean;
  /** An empty row, which will soon hold `wanted` positions. */
  open(wanted: number): Kv;
  /** Frees a row and its memory. */
  close(row: Kv): void;
  /** Takes a row's slot, so that others can run, and keeps its positions. `place` gives it a slot again. */
  park(row: Kv): void;
  /** Gives a slot to every row that the next step runs. `positions`: what each holds at the end of the step. `holds` must be true. */
  place(rows: readonly { kv: Kv; positions: number }[]): void;
  /** Copies the positions [from, to) of a row. */
  copy(row: Kv, from: number, to: number): KvBlock;
  /** Appends the first `positions` of a block to a row. */
  write(row: Kv, block: KvBlock, positions: number): void;
  /** What enters the last feed-forward part at each position, [D]. The arrays are valid until the next pass. */
  states(positions: readonly KvPosition[]): Promise<Float32Array[]>;
  /** Releases memory that is not needed soon. Call it between two steps. */
  trim(): void;
}

export interface Runner {
  readonly config: ModelShape;
  readonly gates: number; // Q
  readonly kv: KvStore;
  /** One pass at a time. */
  run(pass: Pass): Promise<PassOutput>;
  release(): Promise<void>;
}

/** One pass of the trunk and the head; without rows, of the head alone. */
export interface Pass {
  /** A prefill has one row. A decode has every row whose prompt is cached, with one token each. */
  phase: "prefill" | "decode";
  /** The next tokens of S rows. */
  rows: readonly { kv: Kv; tokens: readonly number[] }[];
  /** The M positions of the head: first those of this pass, then earlier ones. */
  states: readonly KvPosition[];
  head: HeadInput;
}

export interface PassOutput extends RowOutput {
  /** Final hidden states (after the last layer norm), [M, D]; null unless they are wanted. */
  hidden: Float32Array | null;
  /** 1 for each row whose new keys and values are finite, [S]. The tokens of other rows are not kept. */
  finite: Uint8Array;
}
