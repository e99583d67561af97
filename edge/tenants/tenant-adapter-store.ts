/**
 * The Durable Object that stores what one tenant has made and given: its own adapters, which it uploads to any backend that lacks
 * them, their examples, the documents of their memories, files and fine-tuning jobs.
 */
import { DurableObject } from "cloudflare:workers";
import { createSigner } from "../../shared/contracts/call-signature.ts";
import { taskOf } from "../../shared/contracts/examples.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { jurisdictionOf } from "../../shared/contracts/tenant-name.ts";
import { settlesWithin } from "../../shared/settles-within.ts";
import { configured } from "../config.ts";
import { addressesIn } from "../dispatch/addresses.ts";
import { type AdapterCopy, BackendClient } from "../dispatch/client.ts";
import { makeAdapter } from "../dispatch/make-adapter.ts";
import { ensureAlarm } from "../platform/clock.ts";
import {
  BackendCopies,
  type ErasedCopies,
  firstRetryMs,
  maxRetryMs,
  memoryPrefix,
  type PendingDeletion,
} from "./backend-copies.ts";
import type { AdmittedRequest, Consumption } from "./consumption.ts";
import type { DocumentRecord } from "./memory-documents.ts";
import { type NearestAdapters, RankedAdapters } from "./nearest-adapters.ts";
import {
  type Added,
  adapterOf,
  type FittedAdapter,
  fittedOf,
  type KeptExamples,
  type OwnAdapter,
  type RecordRow,
} from "./own-adapters.ts";
import { type Page, type PageRequest, RecordLists } from "./record-lists.ts";
import { currentContent, type Encoder, examplesOf, type RefitOutcome, Refits } from "./refits.ts";
import { gunzip, jsonBytes, SealedStore } from "./sealed-store.ts";
import { Settlements, usageReport } from "./settlements.ts";
import { TenantFiles } from "./tenant-files.ts";
import {
  type Changed,
  type DocumentChange,
  type JobOutcome,
  type Refused,
  replacedMs,
  TenantMemories,
} from "./tenant-memories.ts";
import { type JobContent, type TuningJob, TuningJobs } from "./tuning-jobs.ts";

const schema = `
  CREATE TABLE IF NOT EXISTS adapters (
    name TEXT PRIMARY KEY, hash TEXT NOT NULL, record TEXT NOT NULL
  ) WITHOUT ROWID;
`;

/** Longest pause between two tries of a job; each is half of a deletion's, as a backend that restarts is back soon. */
const maxJobRetryMs = 60_000;
/** How often an object looks whether other artifacts are served, in milliseconds: backends keep the old ones for longer (ARTIFACT_GRACE_MS). */
const servedCheckMs = 600_000;
/** How long an alarm waits for jobs, in milliseconds; the platform ends one after 15 minutes, and the next continues. */
const alarmMs = 600_000;
/** A job that a request waits for is continued by the alarm if the object is lost meanwhile. */
const jobAlarmMs = 60_000;
export interface ErasedAdapters extends ErasedCopies {
  adapters: number;
}

export abstract class TenantAdapterStore extends DurableObject<Env> {
  /** A clock in milliseconds since 1970; a test may set another. */
  now = () => Date.now();
  protected abstract readonly encoder: Encoder;
  protected abstract readonly refitted: (outcome: RefitOutcome) => void;
  readonly #sql: SqlStorage;
  /** By address, of the tenant's jurisdiction. */
  readonly #clients: () => Map<string, BackendClient>;
  readonly #sealed: SealedStore;
  readonly #copies: BackendCopies;
  readonly #memories: TenantMemories;
  readonly #settlements: Settlements;
  readonly #lists: RecordLists;
  readonly #files: TenantFiles;
  readonly #jobs: TuningJobs;
  readonly #refits: Refits;
  /** By name, when adapters were last looked for. */
  readonly #usedMs = new Map<string, number>();
  /** So that a prompt reads no record but of those it gets; null after a change. */
  #ranked: RankedAdapters | null = null;
  #failures = 0;
  /** An alarm waits for jobs. */
  #isAlarm = false;

  constructor(state: DurableObjectState, env: Env) {
    super(state, env);
    this.#sql = state.storage.sql;
    this.#sql.exec(schema);
    const jurisdiction = jurisdictionOf(state.id.name ?? "");
    this.#clients = configured(env, ({ backendSecrets, backends, backendFetch }) => {
      const sign = createSigner(backendSecrets, () => Date.now());
      const addresses = addressesIn(jurisdiction, backends);
      return new Map(addresses.map(({ url }) => [url, new BackendClient(url, { sign, fetch: backendFetch })]));
    });
    const tenant = state.id.name ?? "";
    const now = () => this.now();
    const randomBytes = (count: number) => crypto.getRandomValues(new Uint8Array(count));
    const { storage } = state;
    const sealed = new SealedStore(storage, randomBytes);
    const copies = new BackendCopies({
      ...{ tenant, storage, now, clients: () => this.#clients() },
      deleteStored: (hash) => sealed.delete(hash),
    });
    const newId = () => crypto.randomUUID();
    const changed = () => {
      this.#ranked = null;
    };
    this.#settlements = new Settlements(env.LEDGERS, storage, { now, newId, report: usageReport(env) });
    this.#memories = new TenantMemories({
      ...{ tenant, storage, now, sealed },
      clients: () => this.#clients().values(),
      noteCopy: (hash, copy) => copies.note(memoryPrefix + hash, copy, this.now()),
      retire: (hash, name, delayMs) => copies.retire(memoryPrefix + hash, name, delayMs),
      keep: (hash) => copies.keep(memoryPrefix + hash),
      count: (charges, which) => {
        for (const { request, [which]: consumed } of charges) if (consumed) this.#count(request, consumed);
      },
      encode: (manifestHash, documents) => this.encoder.documents(manifestHash, documents),
      ready: (name, manifestHash) => this.#refits.finish(name, manifestHash),
      changed,
    });
    const lists = new RecordLists(this.#sql);
    this.#files = new TenantFiles({ lists, sealed, isJustErased: () => copies.isJustErased() });
    this.#jobs = new TuningJobs({
      ...{ lists, sealed, now, newId },
      roomFor: (name) => this.roomFor(name),
      current: (content) => currentContent(this.encoder, content, now()),
      make: (request, signal, begun) => makeAdapter(this.#clients().values(), request, signal, begun),
      add: (adapter, examples, { file, copy }) => this.add(adapter, examples, Uint8Array.fromBase64(file), copy),
      remove: (name) => this.remove(name),
      count: (request, consumed) => this.#count(request, consumed),
      wake: () => this.buildLater(),
    });
    this.#refits = new Refits({
      ...{ tenant, sql: this.#sql, now, sealed, encoder: () => this.encoder },
      list: () => this.list(),
      find: (name) => this.#find(name),
      usedMs: (name) => this.#usedMs.get(name) ?? 0,
      make: (request, signal) => makeAdapter(this.#clients().values(), request, signal, () => undefined),
      remake: (name, manifestHash) => this.#memories.remake(name, manifestHash),
      build: (name) => this.#memories.build(name),
      noteCopy: (hash, copy) => copies.note(hash, copy, 0),
      discard: async (hash, name) => {
        if (this.#isUnused(hash)) await copies.deleteNow([hash], name);
      },
      keep: (hash) => copies.keep(hash),
      retire: (hash, name) => {
        if (this.#isUnused(hash)) state.waitUntil(copies.retire(hash, name, replacedMs));
      },
      count: (outcome) => this.refitted(outcome),
      changed,
    });
    [this.#sealed, this.#copies, this.#lists] = [sealed, copies, lists];
    // Jobs that ended with the object before this one continue at once.
    const jobs = this.#sql.exec("SELECT 1 FROM memories WHERE jobHash IS NOT NULL LIMIT 1");
    if (jobs.toArray().length > 0 || this.#jobs.areOpen) state.waitUntil(storage.setAlarm(this.now()));
  }

  /** A record of a list (record-lists.ts); null if there is none. */
  record(list: string, id: string): object | null {
    return this.#lists.find<object>(list, id);
  }

  /** null if the list has no record `after`. */
  page(list: string, request: PageRequest): Page<object> | null {
    return this.#lists.page<object>(list, request);
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

  createJob(job: TuningJob, content: JobContent): Promise<Refused | Added> {
    return this.#jobs.create(job, content);
  }

  cancelJob(id: string): TuningJob | null {
    return this.#jobs.cancel(id);
  }

  /** In order of name. */
  list(): OwnAdapter[] {
    const failures = this.#refits.failures();
    const fitted = [...this.#sql.exec<RecordRow>("SELECT record FROM adapters")].map(fittedOf);
    const memories = new Map(this.#memories.list().map((memory) => [memory.name, memory]));
    const all = fitted.map((one) => adapterOf(one, memories.get(one.name) ?? null));
    for (const { name } of fitted) memories.delete(name);
    for (const memory of memories.values()) all.push(adapterOf(null, memory));
    for (const one of all) one.refit = failures.get(one.name) ?? null;
    return all.sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** An adapter that a request names. */
  find(name: string): OwnAdapter | null {
    const found = this.#find(name);
    if (found) this.#usedMs.set(name, this.now());
    return found;
  }

  #find(name: string): OwnAdapter | null {
    const [row] = this.#sql.exec<RecordRow>("SELECT record FROM adapters WHERE name = ?", name);
    const memory = this.#memories.find(name);
    if (!row && !memory) return null;
    return { ...adapterOf(row ? fittedOf(row) : null, memory), refit: this.#refits.failures().get(name) ?? null };
  }

  /** The adapters nearest to prompts of these embeddings [S, P], among those that can be used with the manifest. */
  nearest(embeddings: Float32Array[], manifestHash: string): NearestAdapters {
    this.#ranked ??= new RankedAdapters(this.list());
    this.ctx.waitUntil(this.refitLater(manifestHash));
    return this.#ranked.nearest(embeddings, manifestHash, (name) => this.find(name)!);
  }

  /** Has the alarm make adapters again that are not of the manifest `served`, unless it runs or a retry is due soon. */
  async refitLater(served: string): Promise<void> {
    this.#ranked ??= new RankedAdapters(this.list());
    const times = { delayMs: 0, maxDelayMs: maxJobRetryMs };
    if (!this.#isAlarm && this.#ranked.isAnyWaiting(served)) await ensureAlarm(this.ctx.storage, this.now(), times);
  }

  documentsOf(name: string): Promise<Omit<DocumentRecord, "embedding">[]> {
    return this.#memories.recordsOf(name);
  }

  /**
   * Changes the documents of an adapter and stores the job that makes a memory of them; `isNew`: the adapter must not exist yet.
   * If it is refused, returns the reason and changes nothing.
   */
  async changeDocuments(
    name: string,
    change: DocumentChange,
    isNew: boolean,
  ): Promise<Changed | Refused | Exclude<Added, "added">> {
    const absent: Refused = { kind: "adapter_not_found", message: `You have no adapter ${name}.`, param: null };
    const refusal = () => {
      if (!isNew) return this.find(name) ? null : absent;
      const room = this.roomFor(name);
      return room === "added" ? null : room;
    };
    // Before the job is stored, so that one is continued whenever the object is lost.
    await ensureAlarm(this.ctx.storage, this.now(), { delayMs: jobAlarmMs, maxDelayMs: jobAlarmMs });
    return this.#memories.change(name, change, refusal);
  }

  /** Makes the memory of an adapter now and resolves when it is made or cannot be. */
  build(name: string): Promise<JobOutcome> {
    return this.#memories.build(name);
  }

  /** Has the alarm run all jobs. */
  async buildLater(): Promise<void> {
    await this.ctx.storage.setAlarm(this.now());
    // The alarm comes after the present one, whose jobs may take minutes.
    if (this.#isAlarm) this.ctx.waitUntil(this.#work());
  }

  /** Runs all jobs: those of memories one after the other, and so beside them those of examples. Tells which kinds have some left. */
  #work(): Promise<boolean[]> {
    return Promise.all([this.#memories.buildAll(), this.#jobs.runAll(), this.#refits.runAll()]);
  }

  /** Gives up the job of an adapter that makes the memory `hash`; one that has nothing else is gone then. */
  async abandon(name: string, hash: string): Promise<void> {
    await this.#memories.abandon(name, hash);
  }

  /**
   * JSON of a memory's documents for a backend, which is recorded as a copy; compressed by gzip. null if no adapter has this hash, or
   * had it a moment ago.
   */
  async texts(hash: string, copy: AdapterCopy): Promise<Uint8Array | null> {
    const texts = await this.#memories.texts(hash);
    if (texts) this.#copies.note(memoryPrefix + hash, copy, this.now());
    return texts;
  }

  /** Whether one of this name could be added. */
  roomFor(name: string): Added {
    if (this.#copies.isJustErased()) return "erased";
    if (this.find(name)) return "taken";
    return this.#adapters < limits.adaptersPerTenant ? "added" : "full";
  }

  get #adapters(): number {
    const select = "SELECT count(*) AS count FROM (SELECT name FROM adapters UNION SELECT name FROM memories)";
    return this.#sql.exec<{ count: number }>(select).one().count;
  }

  /** Adds an adapter that a backend has made, with its examples unless these are not kept. One that is not added is deleted there. */
  async add(adapter: FittedAdapter, examples: KeptExamples, file: Uint8Array, copy: AdapterCopy): Promise<Added> {
    const { name, hash } = adapter;
    const seal = () => this.#sealed.seal(examplesOf(name), { examples: jsonBytes(examples) });
    const keepExamples = adapter.keep === false ? null : await seal();
    const store = await this.#sealed.seal(hash, { file });
    const room = this.roomFor(name);
    if (room === "added") {
      keepExamples?.();
      store();
      const record = JSON.stringify({ ...adapter, task: taskOf(examples.examples) } satisfies FittedAdapter);
      this.#sql.exec("INSERT INTO adapters VALUES (?, ?, ?)", name, hash, record);
      this.#copies.keep(hash);
      this.#ranked = null;
    }
    this.#copies.note(hash, copy, 0);
    if (this.#isUnused(hash)) await this.#copies.deleteNow([hash], name);
    await ensureAlarm(this.ctx.storage, this.now(), { delayMs: servedCheckMs, maxDelayMs: servedCheckMs });
    return room;
  }

  /**
   * Removes an adapter, at the backends too unless another name has the same bytes. Returns how many backends have not confirmed it;
   * null if there is no such adapter.
   */
  async remove(name: string): Promise<number | null> {
    if (!this.find(name)) return null;
    this.#ranked = null;
    const [row] = this.#sql.exec<{ hash: string }>("SELECT hash FROM adapters WHERE name = ?", name);
    this.#sql.exec("DELETE FROM adapters WHERE name = ?", name);
    this.#sealed.delete(examplesOf(name));
    const unused = this.#memories.remove(name).map((hash) => memoryPrefix + hash);
    for (const hash of [...(row ? [row.hash] : []), ...this.#refits.remove(name)]) {
      if (this.#isUnused(hash)) unused.push(hash);
    }
    // Sets that were replaced, too: nothing of it stays for a while.
    return this.#copies.deleteNow([...unused, ...this.#copies.laterOf(name)], name);
  }

  /**
   * The bytes of an adapter for a backend, which is recorded as a copy. null if no adapter has this hash, or had it a moment ago.
   */
  async file(hash: string, copy: AdapterCopy): Promise<Uint8Array | null> {
    const compressed = await this.#sealed.compressed(hash, "file");
    if (compressed) this.#copies.note(hash, copy, this.now());
    return compressed && gunzip(compressed);
  }

  deletions(): PendingDeletion[] {
    return this.#copies.pendingDeletions();
  }

  /** Erases all adapters of the tenant, here and at the backends of its jurisdiction. */
  async erase(): Promise<ErasedAdapters> {
    const adapters = this.list().length;
    this.#ranked = null;
    const erased = await this.#copies.erase(() => {
      this.#memories.erase();
      this.#jobs.abort();
      this.#refits.erase();
      this.#sealed.erase();
      this.#lists.erase();
      for (const table of ["adapters", "unsettled"]) this.#sql.exec(`DELETE FROM ${table}`);
    });
    return { adapters, ...erased };
  }

  override async alarm(): Promise<void> {
    const working = this.#work();
    this.#isAlarm = true;
    await this.#copies.deleteDue();
    const isDone = await settlesWithin(working, alarmMs);
    this.#isAlarm = false;
    const areJobsLeft = !isDone || (await working).includes(true);
    this.#failures = this.#copies.isAnyDue || areJobsLeft ? this.#failures + 1 : 0;
    const retryMs = Math.min(maxRetryMs, firstRetryMs * 2 ** this.#failures);
    const jobRetryMs = areJobsLeft ? [Math.min(maxJobRetryMs, retryMs / 2)] : [];
    const checkMs = this.#adapters === 0 ? [] : [servedCheckMs];
    const delays = [...(isDone ? [] : [0]), ...jobRetryMs, ...this.#copies.retryDelays(retryMs), ...checkMs];
    // What was begun meanwhile may have set it to be sooner.
    const delayMs = Math.min(...delays);
    if (delays.length > 0) await ensureAlarm(this.ctx.storage, this.now(), { delayMs, maxDelayMs: delayMs });
    await this.#settlements.retry();
  }

  /** Stores use in the present transaction, and has it counted. */
  #count(request: AdmittedRequest, consumed: Consumption): void {
    this.ctx.waitUntil(this.#settlements.store(request, [consumed]));
  }

  #isUnused(hash: string): boolean {
    const select = "SELECT 1 FROM adapters WHERE hash = ?1 UNION ALL SELECT 1 FROM refits WHERE hash = ?1 LIMIT 1";
    return this.#sql.exec(select, hash).toArray().length === 0;
  }
}
