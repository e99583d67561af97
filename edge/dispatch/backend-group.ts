/** One address and its processes. A process is discovered by the name in an answer, and dropped after a long silence. Pure. */
import type { BackendLoad } from "../../shared/contracts/backend-headers.ts";
import { type BackendAddress, hasProcesses } from "./addresses.ts";
import { addLoads, BackendHealth, LoadEstimate } from "./backend-state.ts";
import { routingLimits } from "./routing-limits.ts";

/** The target of a call: one process, or any process of an address with `{name}`. */
export class Backend {
  readonly id: string;
  readonly group: BackendGroup;
  readonly address: BackendAddress;
  /** Name of the process. null if the address has only one process, or if any of its processes may answer. */
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

  /** `load.unanswered` counts these sequences until `recordAnswered`. */
  recordSent(sequences: number): void {
    this.load.own += sequences;
    this.load.unanswered += sequences;
    this.group.recordSent(this);
  }

  recordAnswered(sequences: number): void {
    this.load.unanswered -= sequences;
  }

  recordSuccess(): void {
    this.health.recordSuccess();
    this.group.any.health.recordSuccess();
  }
}

export class BackendGroup {
  readonly any: Backend;
  readonly #processes = new Map<string, Backend>();
  #namedCalls = 0;

  constructor(address: BackendAddress) {
    this.any = new Backend(this, address, null);
  }

  get processes(): Backend[] {
    return [...this.#processes.values()];
  }

  loadAt(nowMs: number, senders: number): BackendLoad {
    const any = this.any.load.at(nowMs, senders);
    if (this.#processes.size === 0) return any;
    return this.processes
      .map(({ load }) => load.at(nowMs, senders))
      .reduce(addLoads, { sequences: any.sequences, slots: 0 });
  }

  /**
   * Backends of this address that a call may go to next. A first call names a process if several are known, because the router then prefers
   * a warm cache. A retry names an untried process, or none if an unknown process may answer.
   */
  candidates(tried: ReadonlySet<string>, isFit: (process: Backend) => boolean, nowMs: number): Backend[] {
    const processes = this.processes.filter((one) => !this.#isOld(one, nowMs));
    const fit = processes.filter(isFit);
    if (!this.wasTried(tried)) return processes.length > 1 && fit.length > 0 ? fit : [this.any];
    const left = fit.filter(({ id }) => !tried.has(id));
    if (left.length > 0) return left;
    const mayReachOther = fit.length === 0 || processes.length === 1;
    return [...(mayReachOther ? [this.any] : []), ...processes].filter(({ id }) => !tried.has(id));
  }

  wasTried(tried: ReadonlySet<string>): boolean {
    return tried.has(this.any.id) || this.processes.some(({ id }) => tried.has(id));
  }

  /** Whether a first call must name no process, so that a process that is still unknown may answer. */
  mustDiscover(tried: ReadonlySet<string>): boolean {
    return this.#namedCalls >= routingLimits.namedCallsInRow && !this.wasTried(tried);
  }

  recordSent({ name }: Backend): void {
    this.#namedCalls = name === null ? 0 : this.#namedCalls + 1;
  }

  /** Returns the process that the answer names. Returns `called` if the address has only one process or the answer has no name. */
  recordAnswer(called: Backend, name: string | null, nowMs: number): Backend {
    if (name === null || !hasProcesses(called.address.url)) return called;
    const process = this.#processes.get(name) ?? this.#addProcess(name, nowMs);
    process.lastAnswerMs = nowMs;
    return process;
  }

  recordProbe(backend: Backend, isReady: boolean, nowMs: number): void {
    backend.health.recordProbe(isReady, nowMs);
    if (!isReady && nowMs - backend.lastAnswerMs > routingLimits.forgetMs) this.forget(backend);
  }

  forget({ name }: Backend): void {
    if (name !== null) this.#processes.delete(name);
  }

  #isOld({ load, lastAnswerMs }: Backend, nowMs: number): boolean {
    return load.own === 0 && nowMs - lastAnswerMs > routingLimits.processTtlMs;
  }

  /** Drops old processes, and the longest silent ones beyond `processesPerAddress`. */
  #addProcess(name: string, nowMs: number): Backend {
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
