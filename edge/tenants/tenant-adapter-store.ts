/** The Durable Object with a tenant's own adapters, examples, documents, files and fine-tuning jobs. Its alarm runs jobs and deletions. */
import { DurableObject } from "cloudflare:workers";
import { createSigner } from "../../shared/contracts/call-signature.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { jurisdictionOf } from "../../shared/contracts/tenant-name.ts";
import { settlesWithin } from "../../shared/settles-within.ts";
import { configured } from "../config.ts";
import { addressesIn } from "../dispatch/addresses.ts";
import { type AdapterCopy, BackendClient, type MadeAdapter } from "../dispatch/client.ts";
import { ensureAlarm } from "../platform/clock.ts";
import { type AdapterRecord, AdapterRecords, adapterOf, copiesOf, memoryPrefix } from "./adapter-records.ts";
import {
  BackendCopies,
  type ErasedCopies,
  firstRetryMs,
  maxRetryMs,
  type PendingDeletion,
  type TenantParts,
} from "./backend-copies.ts";
import type { DocumentRecord } from "./memory-documents.ts";
import type { NearestAdapters } from "./nearest-adapters.ts";
import { type FitContent, fittedOf, type OwnAdapter, type Refused, refused } from "./own-adapters.ts";
import { type Page, type PageRequest, RecordLists } from "./record-lists.ts";
import { examplesOf, type JobContent, type RefitOutcome, Refits } from "./refits.ts";
import { gunzip, jsonBytes, SealedStore } from "./sealed-store.ts";
import { Settlements, usageReport } from "./settlements.ts";
import type { Encoder, TenantContext } from "./tenant-context.ts";
import { TenantFiles } from "./tenant-files.ts";
import { type Changed, type DocumentChange, type JobOutcome, TenantMemories } from "./tenant-memories.ts";
import { type TuningJob, TuningJobs } from "./tuning-jobs.ts";

/** Longest pause before a job is tried again. A backend that restarts accepts jobs again soon. */
const maxJobRetryMs = 60_000;
/** Interval between checks for other artifacts. Must be less than ARTIFACT_GRACE_MS, for which backends keep old artifacts. */
const servedCheckMs = 600_000;
/** Timeout of an alarm's wait for jobs. The platform ends an alarm after 15 minutes; the next alarm continues the jobs. */
const alarmMs = 600_000;
/** Delay of the alarm that continues a job if the object is lost while a request waits for the job. */
const jobAlarmMs = 60_000;

export abstract class TenantAdapterStore extends DurableObject<Env> {
  now = () => Date.now();
  protected abstract readonly encoder: Encoder;
  protected abstract readonly refitted: (outcome: RefitOutcome) => void;
  readonly #parts: TenantParts;
  readonly #memories: TenantMemories;
  readonly #settlements: Settlements;
  readonly #files: TenantFiles;
  readonly #jobs: TuningJobs;
  readonly #refits: Refits;
  readonly #usedMs = new Map<string, number>();
  readonly #passes = new Map<TuningJobs | Refits, Promise<boolean>>();
  #failures = 0;
  #isAlarm = false;

  constructor(state: DurableObjectState, env: Env) {
    super(state, env);
    const { storage } = state;
    const tenant = state.id.name ?? "";
    const now = () => this.now();
    const newId = () => crypto.randomUUID();
    const context: TenantContext = {
      ...{ tenant, storage, now, newId },
      records: new AdapterRecords(storage.sql),
      lists: new RecordLists(storage.sql),
      sealed: new SealedStore(storage, (count) => crypto.getRandomValues(new Uint8Array(count))),
      encoder: () => this.encoder,
      clients: configured(env, ({ backendSecrets, backends, backendFetch }) => {
        const sign = createSigner(backendSecrets, () => Date.now());
        const addresses = addressesIn(jurisdictionOf(tenant), backends);
        return new Map(addresses.map(({ url }) => [url, new BackendClient(url, { sign, fetch: backendFetch })]));
      }),
      background: (work) => state.waitUntil(work),
      count: (request, consumed) => state.waitUntil(this.#settlements.store(request, consumed)),
    };
    const parts = { ...context, copies: new BackendCopies(context) };
    this.#parts = parts;
    this.#settlements = new Settlements({ ledgers: env.LEDGERS, storage, now, newId, report: usageReport(env) });
    this.#memories = new TenantMemories(parts, (name, manifestHash) => this.#refits.finish(name, manifestHash));
    this.#files = new TenantFiles(parts);
    this.#jobs = new TuningJobs(parts, this);
    this.#refits = new Refits(parts, this.#memories, {
      usedMs: (name) => this.#usedMs.get(name) ?? 0,
      report: (outcome) => this.refitted(outcome),
    });
    // Jobs that were interrupted by the object's loss continue at once.
    if (parts.records.withJobs().length > 0 || this.#jobs.areOpen) state.waitUntil(storage.setAlarm(this.now()));
  }

  record(list: string, id: string): object | null {
    return this.#parts.lists.find<object>(list, id);
  }

  page(list: string, request: PageRequest): Page<object> | null {
    return this.#parts.lists.page<object>(list, request);
  }

  addFile(...file: Parameters<TenantFiles["add"]>): Promise<Refused | null> {
    return this.#files.add(...file);
  }

  fileContent(id: string): Promise<Uint8Array | null> {
    return this.#files.content(id);
  }

  removeFile(id: string): boolean {
    return this.#files.remove(id);
  }

  createJob(job: TuningJob, content: JobContent): Promise<Refused | null> {
    return this.#jobs.create(job, content);
  }

  cancelJob(id: string): TuningJob | null {
    return this.#jobs.cancel(id);
  }

  list(): OwnAdapter[] {
    return this.#parts.records.list().map((record) => this.#shown(record));
  }

  find(name: string): OwnAdapter | null {
    const record = this.#parts.records.find(name);
    if (record) this.#usedMs.set(name, this.now());
    return record && this.#shown(record);
  }

  #shown(record: AdapterRecord): OwnAdapter {
    return adapterOf(this.#memories.withProgress(record));
  }

  /** `embeddings`: the prompts' embeddings, [S, P]. */
  nearest(embeddings: Float32Array[], manifestHash: string): NearestAdapters {
    this.ctx.waitUntil(this.refitLater(manifestHash));
    return this.#parts.records.ranked.nearest(embeddings, manifestHash, (name) => this.find(name)!);
  }

  /** Has the alarm refit adapters of other manifests, unless the alarm runs already, or is due for a retry soon. */
  async refitLater(served: string): Promise<void> {
    const times = { delayMs: 0, maxDelayMs: maxJobRetryMs };
    if (!this.#isAlarm && this.#parts.records.ranked.isAnyWaiting(served))
      await ensureAlarm(this.ctx.storage, this.now(), times);
  }

  documentsOf(name: string): Promise<Omit<DocumentRecord, "embedding">[]> {
    return this.#memories.documentsOf(name);
  }

  /** Stores changed documents and the job that builds their memory, or returns a refusal. `isNew`: the adapter must not exist yet. */
  async changeDocuments(name: string, change: DocumentChange, isNew: boolean): Promise<Changed | Refused> {
    const absent = refused("adapter_not_found", `You have no adapter ${name}.`);
    const refusal = () => (isNew ? this.roomFor(name) : this.#parts.records.find(name) ? null : absent);
    // The alarm is set first, so that it continues the job if the object is lost.
    await ensureAlarm(this.ctx.storage, this.now(), { delayMs: jobAlarmMs, maxDelayMs: jobAlarmMs });
    return this.#memories.change(name, change, refusal);
  }

  build(name: string): Promise<JobOutcome> {
    return this.#memories.build(name);
  }

  async buildLater(): Promise<void> {
    await this.ctx.storage.setAlarm(this.now());
    // The new alarm waits for the end of the present alarm, which may take minutes, so the jobs start here.
    if (this.#isAlarm) this.ctx.waitUntil(this.#work());
  }

  /** Runs memory builds, fine-tuning jobs and refits in parallel. Resolves to whether each kind has some left. */
  #work(): Promise<boolean[]> {
    const passOf = (part: TuningJobs | Refits) => {
      const pass = this.#passes.get(part) ?? part.runAll().finally(() => this.#passes.delete(part));
      this.#passes.set(part, pass);
      return pass;
    };
    return Promise.all([this.#memories.runAll(), passOf(this.#jobs), passOf(this.#refits)]);
  }

  /** Cancels the job with this hash. Deletes the adapter if it has nothing else. */
  abandon(name: string, hash: string): Promise<void> {
    return this.#memories.abandon(name, hash);
  }

  /** A memory's documents, gzipped JSON, for a backend that may then have a copy. null if they were not kept or are deleted. */
  async texts(hash: string, copy: AdapterCopy): Promise<Uint8Array | null> {
    const texts = await this.#memories.texts(hash);
    if (texts) this.#parts.copies.note(memoryPrefix + hash, copy, this.now());
    return texts;
  }

  /** null if an adapter of this name can be added; otherwise the refusal. */
  roomFor(name: string, param = "name"): Refused | null {
    const { records, copies } = this.#parts;
    if (copies.isJustErased()) return refused("adapter_not_found", "The tenant was erased while this was made.");
    if (records.find(name)) {
      const message = `You have an adapter ${name} already; DELETE /v1/adapters/${name} first.`;
      return refused("invalid_request", message, param);
    }
    const maximum = limits.adaptersPerTenant;
    if (records.count < maximum) return null;
    const message = `You have ${maximum} adapters, the maximum is ${maximum}; delete one first.`;
    return refused("adapter_quota_exceeded", message);
  }

  /** Adds an adapter that a backend has made, and its examples unless `keep` is false. Without room, has the backend delete the adapter. */
  async add(
    { name, keep }: Pick<AdapterRecord, "name" | "keep">,
    content: FitContent,
    made: Pick<MadeAdapter, "hash" | "kept" | "gain" | "file" | "copy">,
  ): Promise<Refused | null> {
    const { hash, copy } = made;
    const { records, copies, sealed, storage } = this.#parts;
    const seal = () => sealed.seal(examplesOf(name), { examples: jsonBytes(content.examples) });
    const keepExamples = keep === false ? null : await seal();
    const store = await sealed.seal(hash, { file: Uint8Array.fromBase64(made.file) });
    const refusal = this.roomFor(name);
    if (!refusal) {
      keepExamples?.();
      store();
      const created = Math.floor(this.now() / 1000);
      records.put({ name, created, keep, fitted: fittedOf(content, made), memory: null, refit: null });
      copies.keep(hash);
    }
    copies.note(hash, copy, 0);
    await copies.deleteUnused(hash, name);
    await ensureAlarm(storage, this.now(), { delayMs: servedCheckMs, maxDelayMs: servedCheckMs });
    return refusal;
  }

  /** Removes an adapter and its unshared copies. Resolves to the number of backends that must still confirm; null: no such adapter. */
  async remove(name: string): Promise<number | null> {
    const { records, copies, sealed } = this.#parts;
    const record = records.find(name);
    if (!record) return null;
    this.#memories.cancel(record);
    records.remove(name);
    this.#memories.deleteUnkept();
    sealed.delete(examplesOf(name));
    const unused = copiesOf(record).filter((copy) => records.isUnused(copy));
    // Replaced sets and fitted parts, which would stay for a while, are deleted now, too.
    return copies.deleteNow([...new Set([...unused, ...copies.laterOf(name)])], name);
  }

  /** An adapter's file, for a backend that may then have a copy. null if the file is deleted. */
  async file(hash: string, copy: AdapterCopy): Promise<Uint8Array | null> {
    const compressed = await this.#parts.sealed.compressed(hash, "file");
    if (compressed) this.#parts.copies.note(hash, copy, this.now());
    return compressed && gunzip(compressed);
  }

  deletions(): PendingDeletion[] {
    return this.#parts.copies.pendingDeletions();
  }

  /** Erases all data of the tenant, also at the backends of its jurisdiction. */
  async erase(): Promise<ErasedCopies & { adapters: number }> {
    const { records, copies, sealed, lists } = this.#parts;
    const adapters = records.count;
    const erased = await copies.erase(() => {
      for (const part of [this.#memories, this.#jobs, this.#refits]) part.abort();
      for (const part of [records, sealed, lists, this.#settlements]) part.erase();
    });
    return { adapters, ...erased };
  }

  override async alarm(): Promise<void> {
    const working = this.#work();
    this.#isAlarm = true;
    await this.#parts.copies.deleteDue();
    const isDone = await settlesWithin(working, alarmMs);
    this.#isAlarm = false;
    const areJobsLeft = !isDone || (await working).includes(true);
    this.#failures = this.#parts.copies.isAnyDue || areJobsLeft ? this.#failures + 1 : 0;
    const retryMs = Math.min(maxRetryMs, firstRetryMs * 2 ** this.#failures);
    const jobRetryMs = areJobsLeft ? [Math.min(maxJobRetryMs, retryMs / 2)] : [];
    const checkMs = this.#parts.records.count === 0 ? [] : [servedCheckMs];
    const delays = [...(isDone ? [] : [0]), ...jobRetryMs, ...this.#parts.copies.retryDelays(retryMs), ...checkMs];
    const delayMs = Math.min(...delays);
    if (delays.length > 0) await ensureAlarm(this.ctx.storage, this.now(), { delayMs, maxDelayMs: delayMs });
    await this.#settlements.retry();
  }
}
