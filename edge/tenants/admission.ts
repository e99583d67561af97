/**
 * Admission by a tenant's ledger: one call counts a request and reserves its tokens, another settles it. A
 * request with a large body is counted by a call of its own before the body is read. A cached refusal is repeated without a call. For
 * a tenant without limits only use is counted.
 */
import { ServiceError } from "../../shared/errors.ts";
import { settlesWithin } from "../../shared/settles-within.ts";
import { steadyClock } from "../platform/clock.ts";
import type { Region } from "../platform/region.ts";
import type { Claim } from "./charged-keys.ts";
import type { AdmittedRequest, Consumption, UseRecorder } from "./consumption.ts";
import type { Access } from "./keys.ts";
import { KnownRefusals } from "./known-refusals.ts";
import { type Ledger, ledgerOf } from "./ledger.ts";
import { type Decision, type Gauge, type Refusal, reservationMs } from "./quota.ts";

export interface SettlementDependencies {
  ledgers: DurableObjectNamespace<Ledger>;
  recorder: UseRecorder;
  /** Keeps the Worker alive until `work` settles (waitUntil). */
  background(work: Promise<void>): void;
  /** A clock in milliseconds. */
  now(): number;
  /** Logs use that could not be written. */
  log(requestId: string, error: ServiceError): void;
}

export interface AdmissionRequest {
  requestId: string;
  access: Access;
  region: Region;
  /** Names the request for its tenant's repetitions of it (charged-keys.ts); null if it has no such key. */
  idempotencyKey: string | null;
  /** Receives each decision about a request of a tenant with limits. */
  onDecision(decision: Decision): void;
}

export interface Admissions {
  /** Before a request's body is read: throws rate_limited or quota_exceeded if a cached refusal says so. Calls no ledger. */
  begin(request: AdmissionRequest): PendingAdmission;
}

export interface PendingAdmission {
  /** Claims the request's idempotency key for the body with this digest. Throws idempotency_conflict if it came with another one. */
  claim(digest: string): Promise<Claim>;
  /** Admits the request before its tokens are known, so that a refused body is not read. Throws as `reserve` does. */
  admit(): Promise<void>;
  /**
   * Admits the request, unless `admit` has, and reserves `tokens`, the maximum that it may use. The caller settles the returned
   * admission. Throws rate_limited or quota_exceeded with the limit and the value.
   */
  reserve(tokens: number): Promise<Admission>;
  /**
   * Counts the request if neither was called, and ends one that was refused or failed. Does nothing after a successful `reserve`.
   * Throws as `reserve` does.
   */
  end(): Promise<void>;
}

export interface Admission {
  readonly request: AdmittedRequest;
  /** Extends the lease of the reservation when a quarter of it has passed; cheap. */
  renew(): void;
  /**
   * Ends the request and frees the unused part of its reservation. Only the first call has an effect. Resolves when the use is counted,
   * or stored for another try; never rejects. The end of an answer waits for it, so that no crash loses the charge of a whole answer.
   */
  settle(consumed: readonly Consumption[]): Promise<void>;
}

export function createAdmissions(dependencies: SettlementDependencies): Admissions {
  const { ledgers } = dependencies;
  const knownRefusals = new KnownRefusals(dependencies.now);
  return {
    begin({ requestId, access: { tenant, limits }, region, idempotencyKey, onDecision }) {
      const isLimited = Object.values(limits).some((limit) => limit !== null);
      const keyed = idempotencyKey !== null && { idempotencyKey };
      const admitted = admissionOf(
        { requestId, tenant, beganMs: dependencies.now(), isLimited, ...keyed },
        dependencies,
      );
      const ledger = ledgerOf(ledgers, tenant, region);
      const claim = async (digest: string) => {
        const claimed = await orUnavailable(ledger.claim(idempotencyKey!, digest));
        if (claimed) return claimed;
        const message = "The Idempotency-Key came with another request before; use a new key for each request.";
        throw new ServiceError("idempotency_conflict", message, { param: "Idempotency-Key" });
      };
      if (!isLimited) return { claim, admit: async () => {}, reserve: async () => admitted, end: async () => {} };
      const known = knownRefusals.decisionFor(tenant, limits);
      if (known) apply(known, onDecision);
      let isCounted = false;
      /** The ledger may count the request as running, and no caller settles it. */
      let isOpen = false;
      const count = async (tokens?: number) => {
        [isCounted, isOpen] = [true, true];
        const decision = await orUnavailable(ledger.admit(requestId, limits, tokens));
        isOpen = decision.refusal === null;
        if (!decision.isOfTokens) knownRefusals.note(tenant, decision);
        apply(decision, onDecision);
        return decision;
      };
      return {
        claim,
        async admit() {
          await count();
        },
        async reserve(tokens) {
          if (!isCounted) await count(tokens);
          else {
            const decision = await orUnavailable(ledger.reserve(requestId, tokens, limits));
            apply({ ...decision, requests: null }, onDecision);
          }
          isOpen = false;
          return admitted;
        },
        async end() {
          try {
            if (!isCounted) await count();
          } finally {
            if (isOpen) void admitted.settle([]);
          }
        },
      };
    },
  };
}

/** An answer waits for its charge so long at most, in milliseconds: longer than three tries of a Worker whose ledger moves. */
const chargeWaitMs = 3000;

/** The admission of a request that was admitted in this isolate or another. */
export function admissionOf(request: AdmittedRequest, dependencies: SettlementDependencies): Admission {
  const { requestId, tenant, isLimited } = request;
  const { ledgers, recorder, background, log } = dependencies;
  const now = steadyClock(dependencies.now);
  let renewedMs = now();
  let isOpen = true;
  return {
    request,
    renew() {
      if (!isLimited || now() - renewedMs < reservationMs / 4) return;
      renewedMs = now();
      // A failure is ignored: a later renewal may succeed, otherwise the lease expires.
      background(
        ledgerOf(ledgers, tenant)
          .renew(requestId)
          .then(
            () => undefined,
            () => undefined,
          ),
      );
    },
    async settle(consumed) {
      if (!isOpen) return;
      isOpen = false;
      if (consumed.length === 0 && !isLimited) return;
      const recorded = recorder.record(request, consumed).catch((cause) => {
        log(requestId, new ServiceError("internal", `The use of ${tenant} was not counted.`, { cause }));
      });
      background(recorded);
      await settlesWithin(recorded, chargeWaitMs);
    },
  };
}

/** Whether a request of a tenant with limits is settled, or its reservation has expired; false if its ledger does not answer. */
export async function hasEnded(
  { requestId, tenant, isLimited }: AdmittedRequest,
  ledgers: DurableObjectNamespace<Ledger>,
): Promise<boolean> {
  if (!isLimited) return false;
  const isOpen = await ledgerOf(ledgers, tenant)
    .renew(requestId)
    .catch(() => true);
  return !isOpen;
}

function apply(decision: Decision, onDecision: AdmissionRequest["onDecision"]): void {
  onDecision(decision);
  if (decision.refusal) throw limitError(decision.refusal);
}

/** Refuses the request when the ledger cannot be called, since limits are exact. */
async function orUnavailable<T>(answer: Promise<T>): Promise<T> {
  try {
    return await answer;
  } catch (cause) {
    const message = "The tenant's limits and keys cannot be checked now; try again.";
    throw new ServiceError("backend_unavailable", message, { retryAfterSeconds: 1, cause });
  }
}

const limitWords = {
  requestsPerMinute: "requests a minute",
  tokensPerMinute: "tokens a minute",
  concurrentRequests: "requests at once",
  tokensPerMonth: "tokens a month",
} as const;

function limitError({ limit, maximum, used, requested, retryAfterMs }: Refusal): ServiceError {
  const advice = retryAfterMs === null ? "It can never fit." : `Try again in ${duration(retryAfterMs)}.`;
  const message = `The limit is ${maximum} ${limitWords[limit]}; ${used} are in use and this request needs ${requested}. ${advice}`;
  const retryAfterSeconds = retryAfterMs === null ? undefined : Math.ceil(retryAfterMs / 1000);
  return new ServiceError(limit === "tokensPerMonth" ? "quota_exceeded" : "rate_limited", message, {
    retryAfterSeconds,
  });
}

/** A decision as headers, by OpenAI's names. Its SDKs do not retry a response with `x-should-retry: false`. */
export function decisionHeaders({ refusal, requests, tokens }: Decision): Record<string, string> {
  return {
    ...gaugeHeaders("requests", requests),
    ...gaugeHeaders("tokens", tokens),
    ...(refusal?.retryAfterMs === null && { "x-should-retry": "false" }),
  };
}

function gaugeHeaders(name: string, gauge: Gauge | null): Record<string, string> {
  if (!gauge) return {};
  return {
    [`x-ratelimit-limit-${name}`]: String(gauge.limit),
    [`x-ratelimit-remaining-${name}`]: String(gauge.remaining),
    [`x-ratelimit-reset-${name}`]: duration(gauge.resetMs),
  };
}

/** `850ms`, `12s`, `6m0s`, `30h12m5s`. */
function duration(ms: number): string {
  if (ms < 1000) return `${Math.ceil(ms)}ms`;
  const seconds = Math.ceil(ms / 1000);
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  return `${h > 0 ? `${h}h` : ""}${h + m > 0 ? `${m}m` : ""}${s}s`;
}
