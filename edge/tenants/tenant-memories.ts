/**
 * The memories of a tenant's own adapters: their documents, and the jobs in which a backend builds a memory. A stored job survives the loss
 * of the object or the backend. A change makes a new set of documents; the old set answers until the new memory is built.
 */
import type { Documents } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { memoryHash } from "../../shared/contracts/memory-hash.ts";
import { CallFailure } from "../dispatch/call-failure.ts";
import { type AdapterRecord, memoryPrefix } from "./adapter-records.ts";
import type { TenantParts } from "./backend-copies.ts";
import type { Charge } from "./consumption.ts";
import { centroidOf, type DocumentRecord, firstFree, memoryBody, type NewDocument } from "./memory-documents.ts";
import { type MemoryJob, type OwnMemory, type Refused, refused, wantedOf } from "./own-adapters.ts";
import { gunzippedText, jsonBytes } from "./sealed-store.ts";

export interface DocumentChange {
  manifestHash: string;
  /** Gzipped JSON of NewDocument[], because a message between objects has at most 32 MiB. */
  added?: Uint8Array | null;
  removed?: string;
  /** Maximum tokens of all memories of the tenant; null or absent: no limit. */
  maxTenantTokens?: number | null;
  charge?: Charge;
  /** Only for a new adapter. false: its documents are deleted once the memory is built. */
  keep?: boolean;
}

export interface Changed {
  hash: string;
  /** True if the new job replaces an unfinished job and includes its documents. */
  joinsJob: boolean;
}

/** `queued`: no backend accepts the job now; `error` has the reason, and the alarm tries again. */
export interface JobOutcome {
  status: "ready" | "queued" | "failed" | "cancelled";
  error: Refused | null;
}

/** Time for which a replaced set is kept, because answers that began with it still read it. */
export const replacedMs = 600_000;

interface RunningJob {
  hash: string;
  abort: AbortController;
  builtTokens: number;
  outcome: Promise<JobOutcome>;
}

export class TenantMemories {
  readonly #parts: TenantParts;
  readonly #ready: (name: string, manifestHash: string) => void;
  /** Settles when the last change has taken effect. The next change waits for it. */
  #changes: Promise<unknown> = Promise.resolve();
  readonly #running = new Map<string, RunningJob>();

  /** `ready`: called in the transaction that stores the new memory of an adapter. */
  constructor(parts: TenantParts, ready: (name: string, manifestHash: string) => void) {
    this.#parts = parts;
    this.#ready = ready;
  }

  withProgress(record: AdapterRecord): AdapterRecord {
    const job = record.memory?.job;
    const running = this.#running.get(record.name);
    if (!job || running?.hash !== job.hash) return record;
    const shown: MemoryJob = { ...job, status: "building", builtTokens: running.builtTokens };
    return { ...record, memory: { ...record.memory!, job: shown } };
  }

  /** The documents that answers use; without such documents, the job's. */
  async documentsOf(name: string): Promise<Omit<DocumentRecord, "embedding">[]> {
    const memory = this.#memoryOf(name);
    const set = memory?.ready ?? memory?.job ?? null;
    const records = set === null ? [] : await this.#stored<DocumentRecord>(set.hash, "records");
    return records.map(({ embedding, ...record }) => record);
  }

  texts(hash: string): Promise<Uint8Array | null> {
    return this.#parts.sealed.compressed(memoryPrefix + hash, "texts");
  }

  async #stored<T>(hash: string, kind: "texts" | "records"): Promise<T[]> {
    return (await this.#parts.sealed.json<T[]>(memoryPrefix + hash, kind)) ?? [];
  }

  #memoryOf(name: string): OwnMemory | null {
    return this.#parts.records.find(name)?.memory ?? null;
  }

  /** Stores changed documents as a job. `refusal` is called twice: before the work, and again before the change takes effect. */
  change(name: string, change: DocumentChange, refusal: () => Refused | null): Promise<Changed | Refused> {
    const changed = this.#changes.then(() => this.#change(name, change, refusal));
    this.#changes = changed.catch(() => undefined);
    return changed;
  }

  async remake(name: string, manifestHash: string): Promise<Refused | null> {
    const refusal = () => (this.#memoryOf(name) ? null : refused("adapter_not_found", `You have no adapter ${name}.`));
    const changed = await this.change(name, { manifestHash }, refusal);
    return "kind" in changed ? changed : null;
  }

  async #change(name: string, change: DocumentChange, refusal: () => Refused | null): Promise<Changed | Refused> {
    const refusedFirst = refusal();
    if (refusedFirst !== null) return refusedFirst;
    const { records: adapters, sealed, copies, encoder, tenant } = this.#parts;
    const { manifestHash, added, removed, maxTenantTokens = null, charge } = change;
    const before = adapters.find(name);
    const current = wantedOf(before?.memory ?? null);
    if (current !== null && before?.keep === false) {
      const message = `The documents of ${name} were not kept (keep: false), so nothing can be made of them again.`;
      return refused("invalid_request", message, "documents");
    }
    const [documents, records]: [Documents, DocumentRecord[]] =
      current === null
        ? [[], []]
        : await Promise.all([
            this.#stored<Documents[number]>(current.hash, "texts"),
            this.#stored<DocumentRecord>(current.hash, "records"),
          ]);
    if (current !== null && current.manifestHash !== manifestHash) {
      const encoded = await encoder().documents(manifestHash, documents);
      for (const [i, record] of records.entries()) Object.assign(record, encoded[i]);
    }
    if (removed !== undefined) {
      const at = documents.findIndex((one) => one.name === removed);
      if (at < 0) return refused("not_found", `${name} has no document ${JSON.stringify(removed.slice(0, 80))}.`);
      documents.splice(at, 1);
      records.splice(at, 1);
      if (documents.length === 0) {
        return refused("invalid_request", `This is the only document of ${name}; DELETE /v1/adapters/${name} instead.`);
      }
    }
    const list = added ? (JSON.parse(await gunzippedText(added)) as NewDocument[]) : [];
    const names = new Set(documents.map((one) => one.name));
    for (const { name: given, text, tokens, embedding } of list) {
      const documentName = given ?? firstFree(names);
      if (names.has(documentName)) {
        const shown = JSON.stringify(documentName.slice(0, 80));
        const message = `Two documents would be named ${shown}; delete the old one to replace it, or choose another name.`;
        return refused("invalid_request", message, "documents");
      }
      names.add(documentName);
      documents.push({ name: documentName, text });
      records.push({ name: documentName, tokens, bytes: new TextEncoder().encode(text).length, embedding });
    }
    const sum = (value: (record: DocumentRecord) => number) => records.reduce((total, one) => total + value(one), 0);
    const tokens = sum((one) => one.tokens);
    const beyond = this.#beyondLimits(name, documents.length, tokens, maxTenantTokens);
    if (beyond) return beyond;
    const hash = await memoryHash(tenant, manifestHash, documents);
    const set = {
      ...{ hash, manifestHash },
      documents: documents.length,
      tokens,
      bytes: sum((one) => one.bytes),
      centroid: centroidOf(records),
    };
    const copy = memoryPrefix + hash;
    if (hash !== current?.hash) {
      const store = await sealed.seal(copy, { texts: jsonBytes(documents), records: jsonBytes(records) });
      store();
    }
    const now = adapters.find(name);
    const memory = now?.memory ?? null;
    const refusedLast = refusal();
    // The adapter was deleted, or its documents changed meanwhile. After a change of documents, this change begins again.
    if (refusedLast !== null || wantedOf(memory)?.hash !== current?.hash) {
      if (adapters.isUnused(copy)) sealed.delete(copy);
      return refusedLast ?? this.#change(name, change, refusal);
    }
    copies.keep(copy);
    const replaced = memory?.job ?? null;
    const charges = [...(replaced?.charges ?? []), ...(charge ? [charge] : [])];
    if (replaced?.hash !== hash) this.#running.get(name)?.abort.abort();
    const created = Math.floor(this.#parts.now() / 1000);
    this.#put({
      ...(now ?? { name, created, keep: change.keep, fitted: null, refit: null }),
      memory: {
        ready: memory?.ready ?? null,
        job: { ...set, status: "queued", builtTokens: 0, error: null, charges },
      },
    });
    if (replaced) await copies.deleteUnused(memoryPrefix + replaced.hash, name);
    return { hash, joinsJob: replaced !== null && replaced.status !== "failed" };
  }

  #beyondLimits(name: string, documents: number, tokens: number, maxTenantTokens: number | null): Refused | null {
    if (documents > limits.documents) {
      const message = `${name} would have ${documents} documents, the maximum is ${limits.documents}.`;
      return refused("invalid_request", message, "documents");
    }
    if (tokens > limits.memoryTokens) {
      const message = `The documents of ${name} would have ${tokens} tokens, the maximum is ${limits.memoryTokens}.`;
      return refused("invalid_request", message, "documents");
    }
    const others = this.#parts.records.list().filter((one) => one.name !== name);
    const all = others.reduce((total, { memory }) => total + (wantedOf(memory)?.tokens ?? 0), tokens);
    if (maxTenantTokens === null || all <= maxTenantTokens) return null;
    const message = `Your memories would have ${all} tokens together, the maximum is ${maxTenantTokens}; delete some first.`;
    return refused("adapter_quota_exceeded", message);
  }

  /** Runs an adapter's job, or waits for it if it runs already. Never rejects. */
  build(name: string): Promise<JobOutcome> {
    const job = this.#memoryOf(name)?.job ?? null;
    const known = this.#running.get(name);
    if (known && known.hash === job?.hash) return known.outcome;
    if (!job || job.status === "failed") {
      return Promise.resolve({ status: job ? "failed" : "ready", error: null });
    }
    const running: Omit<RunningJob, "outcome"> = { hash: job.hash, abort: new AbortController(), builtTokens: 0 };
    const outcome = this.#build(name, job, running).finally(() => {
      if (this.#running.get(name)?.abort === running.abort) this.#running.delete(name);
    });
    this.#running.set(name, Object.assign(running, { outcome }));
    return outcome;
  }

  /** Runs all jobs, one after another. Resolves to whether some are left. */
  async runAll(): Promise<boolean> {
    let areLeft = false;
    for (const { name } of this.#parts.records.withJobs()) {
      const { status } = await this.build(name);
      areLeft ||= status === "queued";
    }
    return areLeft;
  }

  async #build(name: string, job: MemoryJob, running: Omit<RunningJob, "outcome">): Promise<JobOutcome> {
    const { tenant, records, copies, clients, now } = this.#parts;
    const { signal } = running.abort;
    const copyName = memoryPrefix + job.hash;
    const isOver = () => signal.aborted || this.#memoryOf(name)?.job?.hash !== job.hash;
    let error = refused("backend_unavailable", "No backend is configured.");
    let [isMade, isFinal] = [false, false];
    try {
      const body = await memoryBody(job.manifestHash, await this.texts(job.hash));
      for (const client of clients().values()) {
        if (isOver()) break;
        try {
          await client.putMemory(tenant, job.hash, body, {
            ...{ signal, process: null },
            begun: (copy) => copies.note(copyName, copy, now()),
            progress: (tokens) => {
              running.builtTokens = tokens;
            },
          });
          isMade = true;
          // Documents that are not kept cannot be sent to a backend later, so all backends build the memory now.
          if (records.find(name)?.keep !== false) break;
        } catch (thrown) {
          if (!(thrown instanceof CallFailure)) throw thrown;
          const { kind, message, retryAfterSeconds } = thrown.error;
          error = { kind, message, param: null, retryAfterSeconds };
          isFinal = !thrown.consequence.retryElsewhere;
          if (isFinal) break;
        }
      }
      if (isMade && !isOver()) await this.#finish(name);
    } catch (thrown) {
      error = refused("internal", "The memory could not be made.");
      isFinal = true;
      console.warn(JSON.stringify({ level: "warn", event: "memory_failed", cause: String(thrown) }));
    }
    const record = records.find(name);
    if (record?.memory?.ready?.hash === job.hash) return { status: "ready", error: null };
    if (!record?.memory?.job || isOver()) return { status: "cancelled", error: null };
    const { ready, job: stored } = record.memory;
    const { charges } = stored;
    if (isFinal) this.#count(charges.splice(0), "otherwise");
    const status = isFinal ? "failed" : "queued";
    this.#put({ ...record, memory: { ready, job: { ...job, status, error: error.message, charges } } });
    if (isFinal) await copies.deleteUnused(copyName, name);
    return { status, error };
  }

  async #finish(name: string): Promise<void> {
    const { records, copies } = this.#parts;
    const record = records.find(name)!;
    const { status, builtTokens, error, charges, ...ready } = record.memory!.job!;
    this.#count(charges, "consumed");
    this.#put({ ...record, memory: { ready, job: null } });
    this.#ready(name, ready.manifestHash);
    const old = record.memory!.ready;
    if (!old) return;
    const copy = memoryPrefix + old.hash;
    if (records.isUnused(copy)) await copies.retire(copy, name, replacedMs);
  }

  /** Cancels the job with this hash, unless another job has replaced it. */
  async abandon(name: string, hash: string): Promise<void> {
    const record = this.#parts.records.find(name);
    if (record?.memory?.job?.hash !== hash) return;
    this.#running.get(name)?.abort.abort();
    const { ready } = record.memory;
    if (ready || record.fitted) this.#put({ ...record, memory: ready && { ready, job: null } });
    else this.#parts.records.remove(name);
    await this.#parts.copies.deleteUnused(memoryPrefix + hash, name);
  }

  /** Cancels the job of an adapter that is being deleted. If a backend has begun to read its documents, they are charged. */
  cancel(record: AdapterRecord): void {
    const job = this.withProgress(record).memory?.job;
    if (job) this.#count(job.charges, job.builtTokens > 0 ? "consumed" : "otherwise");
    this.#running.get(record.name)?.abort.abort();
  }

  abort(): void {
    for (const { abort } of this.#running.values()) abort.abort();
  }

  /** Deletes the documents of ready memories, except documents that an adapter keeps or that a job needs. */
  deleteUnkept(): void {
    const all = this.#parts.records.list();
    const wanted = new Set(
      all.flatMap(({ memory, keep }) => [keep === false ? null : memory?.ready?.hash, memory?.job?.hash]),
    );
    for (const { memory } of all) {
      const hash = memory?.ready?.hash;
      if (hash && !wanted.has(hash)) this.#parts.sealed.delete(memoryPrefix + hash);
    }
  }

  #put(record: AdapterRecord): void {
    this.#parts.records.put(record);
    this.deleteUnkept();
  }

  #count(charges: readonly Charge[], which: "consumed" | "otherwise"): void {
    for (const { request, [which]: consumed } of charges) if (consumed) this.#parts.count(request, consumed);
  }
}
