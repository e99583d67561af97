/**
 * One address and its processes. Pure: events go in with their time, candidates for a call come out. The processes of an address
 * with `{name}` are learnt from the names in answers, so a new one is used as soon as it has answered once, and one that has not
 * answered for long is forgotten. Any other address is one process.
 */
import type { BackendLoad } from "../../shared/contracts/backend-load.ts";
import { type BackendAddress, hasProcesses } from "./addresses.ts";
import { BackendHealth } from "./health.ts";
import { addLoads, LoadEstimate } from "./load-estimate.ts";
import { routingLimits } from "./routing-limits.ts";

/** Where a call can go: one process, or any process of an address with `{name}`. */
export class Backend {
  /** For sets, logs and metrics. */
  readonly id: string;
  /** Of its address. */
  readonly group: BackendGroup;
  readonly address: BackendAddress;
  /** null: the one process of its address, or any of several. */
  readonly name: string | null;
  readonly health = new BackendHealth();
  readonly load = new LoadEstimate();
  lastAnswerMs = 0;

  constructor(group: BackendGroup, address: BackendAddress, name: string | null) {
    this.id = name === null ? address.url : `${address.url}#${name}`;
    this.group = group;
    this.address = address;
    this.name = name;
  }

  /** Counts sequences of a call as under way there. They are unanswered until `recordAnswered`. */
  recordSent(sequences: number): void {
    this.load.own += sequences;
    this.load.unanswered += sequences;
    this.group.recordSent(this);
  }

  /** The call with these sequences was accepted, or failed. */
  recordAnswered(sequences: number): void {
    this.load.unanswered -= sequences;
  }

  /** Records a completed sequence. */
  recordSuccess(): void {
    this.health.recordSuccess();
    this.group.any.health.recordSuccess();
  }
}

export class BackendGroup {
  /** The one process, or any of several. */
  readonly any: Backend;
  readonly #processes = new Map<string, Backend>();
  /** Calls in a row that named a process. */
  #namedCalls = 0;
  constructor(address: BackendAddress) {
    this.any = new Backend(this, address, null);
  }

  get processes(): Backend[] {
    return [...this.#processes.values()];
  }

  /** Of all its processes, as far as they are known. */
  loadAt(nowMs: number, senders: number): BackendLoad {
    const any = this.any.load.at(nowMs, senders);
    if (this.#processes.size === 0) return any;
    return this.processes
      .map(({ load }) => load.at(nowMs, senders))
      .reduce(addLoads, { sequences: any.sequences, slots: 0 });
  }

  /**
   * The backends of this address that a call may go to next, none of `tried`; `isFit` judges one process. A first call goes to a
   * process by name, which keeps its caches warm, if several are known. A retry or a hedge goes to another process by name, and
   * to any only if that may be one that is not known yet.
   */
  candidates(tried: ReadonlySet<string>, isFit: (process: Backend) => boolean, nowMs: number): Backend[] {
    const processes = this.processes.filter((one) => !this.#isOld(one, nowMs));
    const fit = processes.filter(isFit);
    if (!this.isTouched(tried)) return processes.length > 1 && fit.length > 0 ? fit : [this.any];
    const left = fit.filter(({ id }) => !tried.has(id));
    if (left.length > 0) return left;
    const mayReachOther = fit.length === 0 || processes.length === 1;
    return [...(mayReachOther ? [this.any] : []), ...processes].filter(({ id }) => !tried.has(id));
  }

  /** Whether a call to this address, or to a process of it, was tried. */
  isTouched(tried: ReadonlySet<string>): boolean {
    return tried.has(this.any.id) || this.processes.some(({ id }) => tried.has(id));
  }

  /** Whether a first call is to go to any process, because too many named one: so new processes are found. */
  looksForOthers(tried: ReadonlySet<string>): boolean {
    return this.#namedCalls >= routingLimits.namedCallsInRow && !this.isTouched(tried);
  }

  recordSent({ name }: Backend): void {
    this.#namedCalls = name === null ? 0 : this.#namedCalls + 1;
  }

  /** Returns the process that answered a call to `asked`, by the name it gave; `asked` if the address is one process. */
  recordAnswer(asked: Backend, name: string | null, nowMs: number): Backend {
    if (name === null || !hasProcesses(asked.address.url)) return asked;
    const process = this.#processes.get(name) ?? this.#learn(name, nowMs);
    process.lastAnswerMs = nowMs;
    return process;
  }

  /** Records the result of a probe of one of its backends. */
  recordProbe(backend: Backend, isReady: boolean, nowMs: number): void {
    backend.health.recordProbe(isReady, nowMs);
    if (!isReady && nowMs - backend.lastAnswerMs > routingLimits.forgetMs) this.forget(backend);
  }

  /** The process is gone. If it is not, it is learnt again with its next answer. */
  forget({ name }: Backend): void {
    if (name !== null) this.#processes.delete(name);
  }

  #isOld({ load, lastAnswerMs }: Backend, nowMs: number): boolean {
    return load.own === 0 && nowMs - lastAnswerMs > routingLimits.processTtlMs;
  }

  /** Adds a process, after it made room for it. */
  #learn(name: string, nowMs: number): Backend {
    const byAge = this.processes.toSorted((a, b) => a.lastAnswerMs - b.lastAnswerMs);
    for (const [i, process] of byAge.entries()) {
      const isOneTooMany = byAge.length - i >= routingLimits.processesPerAddress;
      if (isOneTooMany || this.#isOld(process, nowMs)) this.forget(process);
    }
    const process = new Backend(this, this.any.address, name);
    this.#processes.set(name, process);
    return process;
  }
}
