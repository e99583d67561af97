/**
 * `npm run audit`: exits with 1 if a shipped package has an advisory that infra/advisories.json does not accept. An acceptance ends at its
 * date. Exits with 0 if the registry offers no audits.
 */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import { z } from "zod";
import { createCommand, parsedOptions } from "../gpu-backend/command-line.ts";

const root = path.dirname(import.meta.dirname);
const { exceptions: exceptionsFile } = parsedOptions<{ exceptions: string }>(
  createCommand("audit", "Look for known advisories on the packages that are shipped", ["chameleon audit"]).option(
    "--exceptions <file>",
    "advisories that are accepted: a JSON list of id, reason and expires",
    "infra/advisories.json",
  ),
);

const exceptionSchema = z.array(z.strictObject({ id: z.string(), reason: z.string().min(10), expires: z.iso.date() }));
const reportSchema = z.object({
  vulnerabilities: z.record(
    z.string(),
    z.object({
      via: z.array(z.union([z.string(), z.object({ name: z.string(), title: z.string(), url: z.string() })])),
    }),
  ),
});

const exceptions = exceptionSchema.parse(JSON.parse(readFileSync(path.resolve(root, exceptionsFile), "utf8")));
const { stdout } = spawnSync("npm", ["audit", "--omit=dev", "--json"], { cwd: root, encoding: "utf8" });
const answer = JSON.parse(stdout || "{}") as { message?: string };
const report = reportSchema.safeParse(answer);
if (report.success) judge(report.data);
else process.stdout.write(`skipped: this registry answers no audits (${answer.message ?? "it did not answer"})\n`);

function judge({ vulnerabilities }: z.infer<typeof reportSchema>): void {
  const today = new Date().toISOString().slice(0, 10);
  const found = new Map<string, string>();
  for (const advisory of Object.values(vulnerabilities).flatMap(({ via }) => via)) {
    if (typeof advisory === "object") found.set(path.basename(advisory.url), `${advisory.name}: ${advisory.title}`);
  }
  const accepted = (id: string) => exceptions.some((one) => one.id === id && one.expires > today);
  const faults = [
    ...[...found].filter(([id]) => !accepted(id)).map(([id, what]) => `${id} ${what}`),
    ...exceptions.filter(({ id }) => !found.has(id)).map(({ id }) => `${id} is an exception without an advisory`),
  ];
  for (const fault of faults) process.stdout.write(`FAULT  ${fault}\n`);
  process.stdout.write(`${found.size} known advisories on what is shipped, ${faults.length} faults\n`);
  if (faults.length > 0) process.exitCode = 1;
}
