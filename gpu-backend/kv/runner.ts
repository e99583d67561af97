/**
 * A `Runner` runs passes of the model for the engine: host-runner.ts with keys and values in the host's memory, or device-runner.ts with
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
  /** Whether computing a prefill chunk in two passes gives the same result as computing it at once. */
  readonly continuesChunks: boolean;
  /** True if memory holds rows that grow to `lengths` beside parked rows of the lengths `parked`. Pure. */
  holds(lengths: readonly number[], parked: readonly number[]): boolean;
  /** Returns an empty row, which is expected to hold `wanted` positions soon. */
  open(wanted: number): Kv;
  /** Frees a row and its memory. */
  close(row: Kv): void;
  /** Frees a row's slot for other rows, and keeps the row's positions. `place` gives the row a slot again. */
  park(row: Kv): void;
  /** Gives a slot to every row that the next step runs. `positions`: the row's positions after that step. `holds` must be true for them. */
  place(rows: readonly { kv: Kv; positions: number }[]): void;
  /** Copies the positions [from, to) of a row. */
  copy(row: Kv, from: number, to: number): KvBlock;
  /** Appends the first `positions` positions of a block to a row. */
  write(row: Kv, block: KvBlock, positions: number): void;
  /** Returns the state at each position, [D]: the input of the last feed-forward part. The arrays are valid until the next pass. */
  states(positions: readonly KvPosition[]): Promise<Float32Array[]>;
  /** Releases memory that is not needed soon. Call it between two steps. */
  trim(): void;
}

export interface Runner {
  readonly config: ModelShape;
  readonly gates: number; // Q
  readonly kv: KvStore;
  /** Runs one pass. The previous pass must have ended. */
  run(pass: Pass): Promise<PassOutput>;
  release(): Promise<void>;
}

/** One pass of the trunk and the head, or of the head alone if there are no rows. */
export interface Pass {
  /** A prefill has one row. A decode has rows whose prompts are complete, with one token each. */
  phase: "prefill" | "decode";
  /** The next tokens of S rows. */
  rows: readonly { kv: Kv; tokens: readonly number[] }[];
  /** The M positions that the head is computed at: first those of this pass, then positions of earlier passes. */
  states: readonly KvPosition[];
  head: HeadInput;
}

export interface PassOutput extends RowOutput {
  /** Final hidden states (after the last layer norm), [M, D]; null unless `head.want.hidden`. */
  hidden: Float32Array | null;
  /** 1 for each row whose new keys and values are finite, else 0, [S]. A row with 0 keeps none of the pass's tokens. */
  finite: Uint8Array;
}
