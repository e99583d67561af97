import type { Frame } from "../../shared/contracts/inference.ts";
import type { ServiceError } from "../../shared/errors.ts";
import type { MemoryRule } from "../../shared/math/memory.ts";
import type { AdapterCache } from "../adapters/generated/adapter-cache.ts";
import type { PrefixCache } from "../kv/prefix-cache.ts";
import type { Runner } from "../kv/runner.ts";
import type { MemoryCache } from "../memory/memory-cache.ts";
import type { CentroidMemories } from "./centroid-memories.ts";
import type { Grammars } from "./grammars.ts";
import type { PhaseReport } from "./messages.ts";
import type { PlanLimits } from "./plan.ts";
import type { Vocabulary } from "./vocabulary.ts";

export interface EngineParts {
  runner: Runner;
  adapters: AdapterCache;
  /** Without `memories`, sequences with memories are refused. */
  memories?: { cache: MemoryCache; rule: MemoryRule; ofCentroids?: Pick<CentroidMemories, "acquire"> };
  /** null: no keys and values of prompts are reused. */
  prefixCache: PrefixCache | null;
  /** Without `grammars`, sequences with a JSON Schema or tool calls are refused. */
  grammars?: Grammars;
  limits: PlanLimits;
  textPieceOf: Vocabulary["textPieceOf"];
  /** A monotonic clock, in milliseconds. */
  now(): number;
  emit(frames: Frame[], report: PhaseReport | null): void;
  queued?(): void;
  /** Called after each pass. More passes of the phase may follow before `emit`. */
  progressed?(): void;
  /** Called when a sequence ends because it cannot be computed. `error.cause` is what was thrown. */
  faulted?(error: ServiceError): void;
}
