/**
 * `npm run keys`: API keys and limits of tenants. A new key is printed on stdout once, alone, and stored nowhere. Everything else
 * goes to stderr, so that `KEY=$(npm run -s keys -- create acme)` works.
 */
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Command, InvalidArgumentError, Option } from "commander";
import { createCommand, httpUrl, runCommand } from "../../gpu-backend/command-line.ts";
import { type TenantErased, tenantErasedSchema } from "../../shared/contracts/responses.ts";
import { tenantPattern, tenantRule } from "../../shared/contracts/tenant-name.ts";
import {
  type Aliases,
  type KnownKey,
  keyIdPattern,
  limitsOf,
  memoryTokensOf,
  type Plan,
  planNames,
  type Scope,
  scopes,
  type TenantLimits,
  type TenantRecord,
} from "../../shared/contracts/tenants.ts";
import { newKey } from "../admin-key.ts";
import { Connection } from "../api/connection.ts";
import { keysFolder } from "../local-edge.ts";
import {
  type Actor,
  changeTenant,
  createKey,
  deleteTenant,
  listKeys,
  type NewKey,
  readTenant,
  revokeKey,
  rotateKey,
  stateOf,
} from "./actions.ts";
import { folderNamespace, wranglerNamespace } from "./namespace.ts";
import { aliases, duration, limit, origins, scopeList, when } from "./options.ts";

const root = path.dirname(path.dirname(import.meta.dirname));
const binding = "TENANTS";
const say = (line: string) => void process.stderr.write(`${line}\n`);

interface Place {
  remote?: boolean;
  env?: string;
  json?: boolean;
}

const program = createCommand(
  "keys",
  "API keys and limits of tenants",
  ["chameleon keys create acme --expires 90d", "chameleon keys limits acme --requests-per-minute 100"],
  `Without --remote the keys are those of the edge that \`npm start\` serves, running or not; its state is in STATE_DIR (.chameleon).
A change is in force there within a second, and at a deployed edge within about a minute, the time that KV takes.
A tenant whose name begins with eu: (eu:acme) is answered and kept in the EU alone.`,
);

command("create <tenant>", "make a key; it is printed once")
  .addOption(new Option("--scopes <list>", `of ${scopes.join(", ")}`).argParser(scopeList).default([...scopes], "all"))
  .option("--expires <when>", "as 90d, 12h, or a date; never unless set", when)
  .action(async (tenant: string, options: Place & { scopes: Scope[]; expires?: Date }) => {
    const made = await createKey(actorAt(options), checkedTenant(tenant), {
      scopes: options.scopes,
      expiresAt: options.expires ?? null,
    });
    show(made, options);
  });

command("list [tenant]", "list keys, of one tenant or of all").action(
  async (tenant: string | undefined, options: Place) => {
    const keys = await listKeys(actorAt(options), tenant);
    if (options.json) {
      const shown = keys.map(({ id, record }) => ({ id, ...withoutHash(record), state: stateOf(record, now()) }));
      process.stdout.write(`${JSON.stringify(shown, null, 2)}\n`);
    } else {
      for (const { id, record } of keys) process.stdout.write(`${keyLine(id, record)}\n`);
      if (keys.length === 0) say("there are no keys");
    }
  },
);

command("revoke <id>", "revoke a key").action(async (id: string, options: Place) => {
  const record = await revokeKey(actorAt(options), checkedKeyId(id));
  say(`revoked ${id} of ${record.tenant}; ${inForce(options)}`);
});

command("rotate <id>", "replace a key by a new one; the old one stays valid for a while")
  .option("--overlap <time>", "how long the old one stays valid, as 24h or 7d", duration, duration("24h"))
  .option("--expires <when>", "of the new one, as 90d, 12h, or a date; never unless set", when)
  .action(async (id: string, options: Place & { overlap: number; expires?: Date }) => {
    const made = await rotateKey(actorAt(options), checkedKeyId(id), {
      overlapMs: options.overlap,
      expiresAt: options.expires ?? null,
    });
    show(made, options);
    say(`${id} is valid until ${made.old.expiresAt}`);
  });

command("limits <tenant>", "show what a tenant may use, or change it; N is a number, none, or plan for the plan's own")
  .addOption(new Option("--plan <name>", "limits of the tenant where none is set explicitly").choices(planNames))
  .option("--requests-per-minute <N>", "in any 60 seconds", limit)
  .option("--tokens-per-minute <N>", "prompt and completion", limit)
  .option("--concurrent-requests <N>", "running at once", limit)
  .option("--tokens-per-month <N>", "by the calendar, UTC", limit)
  .option("--memory-tokens <N>", "of all documents of its own adapters", limit)
  .option(
    "--origin <origin>",
    "a web origin whose pages may call with the tenant's keys; repeatable, replaces those set before",
    origins,
  )
  .option("--no-origin", "no web page but our own")
  .option(
    "--alias <name=model>",
    "another name of a model, as gpt-4o-mini=smollm2-135m:auto; repeatable, replaces those set before",
    aliases,
  )
  .option("--no-alias", "no names but the deployment's")
  .action(async (name: string, options: Place & LimitOptions) => {
    const tenant = checkedTenant(name);
    const { plan, origin, alias, memoryTokens, ...others } = options;
    const { requestsPerMinute, tokensPerMinute, concurrentRequests, tokensPerMonth } = others;
    const given = { requestsPerMinute, tokensPerMinute, concurrentRequests, tokensPerMonth };
    const limits = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
    const isSet = [plan, origin, alias, memoryTokens].some((value) => value !== undefined);
    const isChange = isSet || Object.keys(limits).length > 0;
    const actor = actorAt(options);
    const record = isChange
      ? await changeTenant(actor, tenant, {
          ...(plan && { plan }),
          limits,
          ...(memoryTokens !== undefined && { memoryTokens }),
          ...(origin !== undefined && { origins: origin || [] }),
          ...(alias !== undefined && { aliases: alias || {} }),
        })
      : await readTenant(actor, tenant);
    showTenant(tenant, record, options);
    if (isChange) say(inForce(options));
  });

command("delete <tenant>", "erase a tenant: its keys, limits, use and own adapters, at the edge and at its backends")
  .option("--url <url>", "address of the edge; that of the local start unless set", httpUrl)
  .action(async (name: string, options: Place & { url?: string }) => {
    const tenant = checkedTenant(name);
    if (options.remote && options.url === undefined) {
      throw new InvalidArgumentError("--remote needs --url, the address of the deployed edge");
    }
    const { keys, erased } = await deleteTenant(actorAt(options), tenant, {
      inForce: () => sleep(options.remote ? revokedMs.remote : revokedMs.local),
      erase: (key) =>
        new Connection({ ...(options.url && { url: options.url }), key }).call(
          tenantErasedSchema,
          "DELETE",
          "/v1/tenant",
        ),
    });
    if (options.json) process.stdout.write(`${JSON.stringify({ keys, ...erased })}\n`);
    else for (const line of erasedLines(keys, erased)) process.stdout.write(`${line}\n`);
  });

/** How long a revoked key may still be accepted, in milliseconds: an isolate's memory, and KV's cache before it. */
const revokedMs = { local: 2500, remote: 65_000 };

function erasedLines(keys: number, { tenant, adapters, backends }: TenantErased): string[] {
  const partly = backends.partly_asked;
  return [
    `${tenant}: erased ${keys} keys, its limits and origins, its use, ${adapters} own adapters`,
    `backends that have confirmed: ${backends.confirmed.join(", ") || "none"}`,
    ...(backends.pending.length > 0
      ? [`not confirmed yet: ${backends.pending.join(", ")}; the edge asks them until they confirm`]
      : []),
    ...(partly.length > 0 ? [`processes that are not known to have a copy were not asked: ${partly.join(", ")}`] : []),
    "what is left: log lines and traces, usage events of Analytics Engine (3 months), backups of backends' disks and of the",
    "platform's storage (30 days), beginnings of prompts in a backend's memory until others need the room or it restarts,",
    "and keys in TENANT_KEYS, which the next deployment without them ends",
  ];
}

type LimitOptions = { [Name in keyof TenantLimits | "memoryTokens"]?: number | null | "plan" } & {
  plan?: Plan;
  /** false for --no-origin, and for --no-alias. */
  origin?: string[] | false;
  alias?: Aliases | false;
};

await runCommand(program);

function command(usage: string, description: string): Command {
  return program
    .command(usage)
    .description(description)
    .option("--remote", "the deployed edge, through wrangler's login or CLOUDFLARE_API_TOKEN")
    .option("--env <name>", "environment of wrangler.toml that the deployed edge belongs to")
    .option("--json", "print JSON");
}

function actorAt({ remote, env }: Place): Actor {
  const environment = env === undefined ? [] : ["--env", env];
  return {
    namespace: remote
      ? wranglerNamespace(root, ["--binding", binding, "--remote", ...environment])
      : folderNamespace(keysFolder()),
    now,
    newKey,
  };
}

function show({ key, id, record }: NewKey, { json }: Place): void {
  process.stdout.write(`${json ? JSON.stringify({ key, id, ...withoutHash(record) }) : key}\n`);
  say(keyLine(id, record));
  say("The key is stored nowhere: this is the only time that it is shown.");
}

function showTenant(tenant: string, record: TenantRecord | null, { json }: Place): void {
  const known: TenantRecord = record ?? { plan: "standard", limits: {}, origins: [] };
  const { plan, origins, aliases = {} } = known;
  const limits = { ...limitsOf(known), memoryTokens: memoryTokensOf(known) };
  if (json) {
    process.stdout.write(`${JSON.stringify({ tenant, plan, limits, origins, aliases })}\n`);
    return;
  }
  const lines = Object.entries(limits).map(([name, value]) => `  ${name.padEnd(20)}${value ?? "none"}`);
  process.stdout.write(`${tenant}: plan ${plan}${record ? "" : " (nothing is set)"}\n${lines.join("\n")}\n`);
  process.stdout.write(`  ${"origins".padEnd(20)}${origins.join(" ") || "none"}\n`);
  const named = Object.entries(aliases).map(([name, model]) => `${name}=${model}`);
  process.stdout.write(`  ${"aliases".padEnd(20)}${named.join(" ") || "none"}\n`);
}

function keyLine(id: string, record: KnownKey): string {
  const state = stateOf(record, now());
  const end = state === "revoked" ? ` at ${record.revokedAt}` : state === "active" ? "" : ` at ${record.expiresAt}`;
  return `${id}  ${record.tenant}  ${record.scopes.join(",") || "no scope"}  made ${record.createdAt}  ${state}${end}`;
}

function withoutHash({ hash, tenantRecord, ...record }: KnownKey): Omit<KnownKey, "hash" | "tenantRecord"> {
  return record;
}

function inForce({ remote }: Place): string {
  return remote ? "in force within about a minute" : "in force within a second";
}

function now(): Date {
  return new Date();
}

function checkedTenant(tenant: string): string {
  if (!tenantPattern.test(tenant)) throw new InvalidArgumentError(`"${tenant}" is no tenant: ${tenantRule}`);
  return tenant;
}

function checkedKeyId(id: string): string {
  if (!keyIdPattern.test(id))
    throw new InvalidArgumentError("a key is named by its id, 16 hex digits, as `npm run keys -- list` has it");
  return id;
}
