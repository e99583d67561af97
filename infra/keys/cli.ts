/**
 * `chameleon keys`: manages API keys and limits through the admin API. stdout gets only a new key, so that `KEY=$(chameleon keys create
 * acme)` works.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type Command, InvalidArgumentError, Option } from "commander";
import { collected, createCommand, runCommand } from "../../gpu-backend/command-line.ts";
import * as admin from "../../shared/contracts/admin.ts";
import { tenantPattern, tenantRule } from "../../shared/contracts/tenant-name.ts";
import { type Aliases, keyIdPattern, type Plan, planNames, scopes } from "../../shared/contracts/tenants.ts";
import { type AdminOptions, adminConnection, withAdminConnection } from "../api/connection.ts";
import { confirmDeletion } from "../confirm.ts";
import { aliases, duration, limit, when } from "./options.ts";

const keysPath = "/admin/v1/keys";
const say = (line: string) => void process.stderr.write(`${line}\n`);

const program = createCommand(
  "keys",
  "API keys and limits of tenants",
  ["chameleon keys create acme --expires 90d", "chameleon keys limits acme --requests-per-minute 100"],
  `A change is in force within a second here, and within about a minute at an edge on Cloudflare.
A tenant whose name begins with eu: (eu:acme) is answered and kept in the EU alone.`,
);

command("create <tenant>", "make a key; it is printed once")
  .option("--scopes <list>", `of ${scopes.join(", ")}, separated by commas; all unless set`, (list) => list.split(","))
  .option("--expires <when>", "as 90d, 12h, or a date; never unless set", when)
  .action(async (tenant: string, options: AdminOptions & { scopes?: string[]; expires?: Date }) => {
    const body = { tenant: checkedTenant(tenant), scopes: options.scopes, expires_at: options.expires };
    show(await adminConnection(options).call(admin.newKeySchema, "POST", keysPath, body), options);
  });

command("list [tenant]", "list keys, of one tenant or of all").action(
  async (tenant: string | undefined, options: AdminOptions) => {
    const query = tenant === undefined ? "" : `?tenant=${encodeURIComponent(checkedTenant(tenant))}`;
    const { data } = await adminConnection(options).call(admin.keyListSchema, "GET", keysPath + query);
    if (options.json) process.stdout.write(`${JSON.stringify(data, null, 2)}\n`);
    else for (const key of data) process.stdout.write(`${keyLine(key)}\n`);
    if (data.length === 0) say("there are no keys");
  },
);

command("revoke <id>", "revoke a key").action(async (id: string, options: AdminOptions) => {
  say(keyLine(await adminConnection(options).call(admin.keySchema, "DELETE", `${keysPath}/${checkedKeyId(id)}`)));
});

command("rotate <id>", "replace a key by a new one; the old one stays valid for a while")
  .option("--overlap <time>", "how long the old one stays valid, as 24h or 7d", duration, duration("24h"))
  .option("--expires <when>", "of the new one, as 90d, 12h, or a date; never unless set", when)
  .action(async (id: string, options: AdminOptions & { overlap: number; expires?: Date }) => {
    const body = { old_expires_at: new Date(Date.now() + options.overlap), expires_at: options.expires };
    const path = `${keysPath}/${checkedKeyId(id)}/rotate`;
    const made = await adminConnection(options).call(admin.newKeySchema, "POST", path, body);
    show(made, options);
    say(`${id} is valid until ${made.replaces?.expires_at}`);
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
    collected,
  )
  .option("--no-origin", "no web page but our own")
  .option(
    "--alias <name=model>",
    "another name of a model, as gpt-4o-mini=smollm2-135m:auto; repeatable, replaces those set before",
    aliases,
  )
  .option("--no-alias", "no names but the deployment's")
  .action(async (tenant: string, options: AdminOptions & LimitOptions) => {
    const { url, json, plan, origin, alias, ...given } = options;
    const limits = Object.fromEntries(Object.entries(given).map(([name, value]) => [apiName(name), value]));
    const change = {
      ...(plan && { plan }),
      ...(Object.keys(limits).length > 0 && { limits }),
      ...(origin !== undefined && { origins: origin || [] }),
      ...(alias !== undefined && { aliases: alias || {} }),
    };
    const path = tenantPath(tenant);
    const connection = adminConnection({ url });
    const isChange = Object.keys(change).length > 0;
    showTenant(
      isChange
        ? await connection.call(admin.tenantSettingsSchema, "POST", path, change)
        : await connection.call(admin.tenantSettingsSchema, "GET", path),
      json,
    );
  });

command("delete <tenant>", "erase a tenant: its keys, limits, use and own adapters, at the edge and at its backends")
  .option("--yes", "do not ask")
  .action(async (tenant: string, options: AdminOptions & { yes?: boolean }) => {
    const path = tenantPath(tenant);
    if (!options.yes) await confirmDeletion(`erase ${tenant}, for ever?`);
    const connection = adminConnection(options);
    const erase = () => connection.call<admin.TenantErasure>(admin.tenantErasureSchema, "DELETE", path);
    let answer = await erase();
    while (answer.object === "tenant.erasing") {
      say(`the keys of ${tenant} are revoked, which is in force everywhere in ${answer.retry_after} s`);
      await sleep(1000 * answer.retry_after);
      answer = await erase();
    }
    if (answer.keys + answer.adapters === 0) say(`${tenant} had no key and no adapter: is the name right?`);
    if (options.json) process.stdout.write(`${JSON.stringify(answer)}\n`);
    else for (const line of erasedLines(answer)) process.stdout.write(`${line}\n`);
  });

function erasedLines({ tenant, keys, adapters, backends, left }: admin.TenantErased): string[] {
  const partly = backends.partly_asked;
  const { pending } = backends;
  return [
    `${tenant}: erased ${keys} keys, its limits and origins, its use, ${adapters} own adapters`,
    `backends that have confirmed: ${backends.confirmed.join(", ") || "none"}`,
    ...(pending.length > 0 ? [`not confirmed yet: ${pending.join(", ")}; the edge asks them until they confirm`] : []),
    ...(partly.length > 0 ? [`processes that are not known to have a copy were not asked: ${partly.join(", ")}`] : []),
    "what is left:",
    ...left.map((what) => `  ${what}`),
  ];
}

type LimitOptions = { [name: string]: number | null | "plan" } & {
  plan?: Plan;
  origin?: string[] | false;
  alias?: Aliases | false;
};

await runCommand(program);

function command(usage: string, description: string): Command {
  return withAdminConnection(program.command(usage).description(description));
}

function show(made: admin.NewKey, { json }: AdminOptions): void {
  process.stdout.write(`${json ? JSON.stringify(made) : made.key}\n`);
  say(keyLine(made));
  say("The key is stored nowhere: this is the only time that it is shown.");
}

function showTenant(settings: admin.TenantSettings, json = false): void {
  const { tenant, plan, limits, origins, aliases } = settings;
  if (json) {
    process.stdout.write(`${JSON.stringify(settings)}\n`);
    return;
  }
  const named = Object.entries(aliases).map(([name, model]) => `${name}=${model}`);
  const lines = Object.entries({ ...limits, origins: origins.join(" "), aliases: named.join(" ") });
  const shown = lines.map(([name, value]) => `  ${name.padEnd(20)}${value === "" ? "none" : (value ?? "none")}\n`);
  process.stdout.write(`${tenant}: plan ${plan}\n${shown.join("")}`);
}

function keyLine({ id, tenant, scopes, created_at, expires_at, revoked_at, state }: admin.Key): string {
  const end = state === "active" ? "" : ` at ${revoked_at ?? expires_at}`;
  return `${id}  ${tenant}  ${scopes.join(",") || "no scope"}  made ${created_at}  ${state}${end}`;
}

/** requestsPerMinute → requests_per_minute */
function apiName(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

function tenantPath(tenant: string): string {
  return `/admin/v1/tenants/${encodeURIComponent(checkedTenant(tenant))}`;
}

function checkedTenant(tenant: string): string {
  if (!tenantPattern.test(tenant)) throw new InvalidArgumentError(`"${tenant}" is no tenant: ${tenantRule}`);
  return tenant;
}

/** Accepts only a key's id. The id becomes part of a URL and of logs, where a key must not be. */
function checkedKeyId(id: string): string {
  if (!keyIdPattern.test(id))
    throw new InvalidArgumentError("a key is named by its id, 16 hex digits, as `chameleon keys list` has it");
  return id;
}
