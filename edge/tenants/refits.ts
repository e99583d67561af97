/**
 * Makes own adapters again ("refits" them) from kept examples and documents when other artifacts are served. One write replaces the
 * adapter; until then it answers with its old artifacts. Refits are not charged.
 */
import { type AdapterRequest, contractVersion } from "../../shared/contracts/inference.ts";
import { type ErrorKind, ServiceError, toServiceError } from "../../shared/errors.ts";
import { makeAdapter } from "../dispatch/make-adapter.ts";
import { type AdapterRecord, adapterOf } from "./adapter-records.ts";
import type { TenantParts } from "./backend-copies.ts";
import { type FitContent, fittedOf, isWaiting, type KeptExamples, wantedOf } from "./own-adapters.ts";
import type { Encoder } from "./tenant-context.ts";
import { replacedMs, type TenantMemories } from "./tenant-memories.ts";

export type RefitOutcome = "begun" | "done" | "postponed" | "failed";

interface RefitOptions {
  /** When the adapter was last used, in milliseconds since 1970; 0: unknown. */
  usedMs(name: string): number;
  report(outcome: RefitOutcome): void;
}

/** Kinds of errors after which every further try would fail, too. */
const finalKinds: ErrorKind[] = ["invalid_request", "context_length_exceeded", "adapter_quota_exceeded", "internal"];

export class Refits {
  readonly #parts: TenantParts;
  readonly #memories: TenantMemories;
  readonly #options: RefitOptions;
  #abort = new AbortController();

  constructor(parts: TenantParts, memories: TenantMemories, options: RefitOptions) {
    this.#parts = parts;
    this.#memories = memories;
    this.#options = options;
  }

  /** One after another, the most recently used first. Resolves to whether some are left. Never rejects. */
  async runAll(): Promise<boolean> {
    const { records, encoder } = this.#parts;
    if (records.count === 0) return false;
    const served = encoder().served();
    const manifestHash = await served.catch(() => null);
    if (manifestHash === null) return true;
    const waiting = records.list().filter((record) => isWaiting(adapterOf(record), manifestHash));
    for (const record of waiting) this.#begin(record, manifestHash);
    const { usedMs } = this.#options;
    waiting.sort((a, b) => usedMs(b.name) - usedMs(a.name) || b.created - a.created);
    let areLeft = false;
    for (const { name } of waiting) {
      const record = records.find(name);
      if (!record || !isWaiting(adapterOf(record), manifestHash)) continue;
      if (!(await this.#refit(record, manifestHash))) areLeft = true;
    }
    return areLeft;
  }

  #begin({ name, refit }: AdapterRecord, manifestHash: string): void {
    if (refit && (refit.manifestHash === manifestHash || refit.made)) return;
    this.#parts.records.change(name, { refit: { manifestHash, error: null, isFinal: false, made: null } });
    this.#options.report("begun");
  }

  /** Resolves to false if another try must follow. */
  async #refit(record: AdapterRecord, manifestHash: string): Promise<boolean> {
    const { name, fitted, memory } = record;
    let isFinal = false;
    try {
      if (fitted) await this.#fit(record, manifestHash);
      const wanted = wantedOf(memory);
      if (wanted === null) {
        if (!fitted) throw new ServiceError("invalid_request", "Its documents are gone.");
        this.finish(name, manifestHash);
        return true;
      }
      const refused = wanted.manifestHash === manifestHash ? null : await this.#memories.remake(name, manifestHash);
      if (refused) throw new ServiceError(refused.kind, refused.message);
      const { status, error } = await this.#memories.build(name);
      isFinal = status === "failed";
      if (error) throw new ServiceError(error.kind, error.message);
      return status === "ready";
    } catch (thrown) {
      const { kind, message } = toServiceError(thrown);
      isFinal ||= finalKinds.includes(kind);
      if (kind === "internal") {
        console.warn(JSON.stringify({ level: "warn", event: "refit_failed", cause: String(thrown) }));
      }
      const now = this.#parts.records.find(name);
      // The adapter was deleted while it was made.
      if (!now) return true;
      const before = now.refit ?? { manifestHash, made: null };
      this.#parts.records.change(name, { refit: { ...before, error: message, isFinal } });
      this.#options.report(isFinal ? "failed" : "postponed");
      return isFinal;
    }
  }

  /** The fitted parts stay in the record's `refit` until the memory is built, too. */
  async #fit({ name, fitted: before, refit }: AdapterRecord, manifestHash: string): Promise<void> {
    const { tenant, records, copies, sealed, now, encoder, clients } = this.#parts;
    if (refit?.made) {
      if (refit.manifestHash === manifestHash) return;
      // Other artifacts were published after these parts were fitted, so nothing can use them.
      records.change(name, { refit: null });
      await copies.deleteUnused(refit.made.hash, name);
    }
    const stored = await sealed.json<KeptExamples>(examplesOf(name), "examples");
    if (!stored?.examples.length) throw new ServiceError("invalid_request", "Its examples were not kept.");
    const content = await jobContent(encoder(), { manifestHash, tenant }, stored, now());
    const made = await makeAdapter(clients().values(), content.request, this.#abort.signal, () => undefined);
    const store = await sealed.seal(made.hash, { file: Uint8Array.fromBase64(made.file) });
    if (records.find(name)?.fitted?.hash === before?.hash) {
      store();
      copies.keep(made.hash);
      const fitted = fittedOf(content, made);
      records.change(name, { refit: { manifestHash, error: null, isFinal: false, made: fitted } });
    }
    copies.note(made.hash, made.copy, 0);
    await copies.deleteUnused(made.hash, name);
  }

  /** Called when the whole adapter is made. In the present transaction, the new fitted parts replace the old ones. */
  finish(name: string, manifestHash: string): void {
    const { records, copies, background } = this.#parts;
    const { fitted = null, refit = null } = records.find(name) ?? {};
    if (!refit) return;
    const made = refit.manifestHash === manifestHash ? refit.made : null;
    records.change(name, { refit: null, fitted: made ?? fitted });
    this.#options.report("done");
    if (!made || !fitted || made.hash === fitted.hash) return;
    // The old parts are deleted later, because answers that began with them still read them.
    if (records.isUnused(fitted.hash)) background(copies.retire(fitted.hash, name, replacedMs));
  }

  abort(): void {
    this.#abort.abort();
    this.#abort = new AbortController();
  }
}

export interface JobContent extends FitContent {
  request: AdapterRequest;
}

async function jobContent(
  encoder: Encoder,
  { manifestHash, tenant }: Pick<AdapterRequest, "manifestHash" | "tenant">,
  kept: KeptExamples,
  nowMs: number,
): Promise<JobContent> {
  const { examples, centroid, tokens } = await encoder.examples(manifestHash, kept.examples, nowMs);
  const validation = kept.validation && (await encoder.examples(manifestHash, kept.validation, nowMs));
  return {
    request: {
      ...{ version: contractVersion, manifestHash, tenant, examples },
      ...(validation && { validation: validation.examples }),
    },
    ...{ manifestHash, centroid: [...centroid], examples: kept, tokens: tokens + (validation?.tokens ?? 0) },
  };
}

/** If other artifacts were published after a job was stored, its examples are encoded again. */
export async function currentContent(encoder: Encoder, content: JobContent, nowMs: number): Promise<JobContent> {
  const manifestHash = await encoder.served();
  const { request, examples } = content;
  if (request.manifestHash === manifestHash) return content;
  return jobContent(encoder, { manifestHash, tenant: request.tenant }, examples, nowMs);
}

export function examplesOf(name: string): string {
  return `examples:${name}`;
}
