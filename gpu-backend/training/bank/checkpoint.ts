/** A training run's state on disk, so that an interrupted run can continue. */
import { readFile } from "node:fs/promises";
import {
  alignedCopy,
  readTensorFile,
  type TensorFile,
  tensorFrom,
  tensorOf,
  toFloat32,
  writeTensorFile,
} from "../../../shared/artifacts/tensor-file.ts";
import type { Moments } from "../../../shared/math/adamw.ts";
import { nullIfMissing, writeWhole } from "../../files.ts";
import type { ParameterName, Parameters } from "./parameters.ts";
import type { TrainerState } from "./trainer.ts";

const prefix = "parameter.";

export async function saveCheckpoint(path: string, state: TrainerState): Promise<void> {
  const file: TensorFile = new Map([["step", tensorFrom(Int32Array.of(state.step), [1])]]);
  for (const [name, values] of state.parameters) {
    const { first, second } = state.moments.get(name)!;
    file.set(`${prefix}${name}`, tensorFrom(values, [values.length]));
    file.set(`first.${name}`, tensorFrom(first, [first.length]));
    file.set(`second.${name}`, tensorFrom(second, [second.length]));
  }
  await writeWhole(path, writeTensorFile(file));
}

/** The saved state, or null where there is none. Throws an Error when the file is damaged. */
export async function loadCheckpoint(path: string): Promise<TrainerState | null> {
  const bytes = await readFile(path).catch(nullIfMissing);
  if (!bytes) return null;
  const file = readTensorFile(bytes);
  const parameters: Parameters = new Map();
  const moments = new Map<ParameterName, Moments>();
  for (const tensorName of file.keys()) {
    if (!tensorName.startsWith(prefix)) continue;
    const name = tensorName.slice(prefix.length) as ParameterName;
    parameters.set(name, toFloat32(tensorOf(file, tensorName)));
    moments.set(name, {
      first: toFloat32(tensorOf(file, `first.${name}`)),
      second: toFloat32(tensorOf(file, `second.${name}`)),
    });
  }
  const step = new Int32Array(alignedCopy(tensorOf(file, "step").bytes));
  return { step: step[0], parameters, moments };
}
