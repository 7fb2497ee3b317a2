// Drives the unmodified npm package @deno/sandbox against a running `hutch serve`, on whatever
// runtime runs this file (Deno, Node). Prints one TAP line a member of the client and, with
// --json FILE, writes {runtime, results: [{member, covers, ok, message}], members: [{name, notYet, partly}]}.
//
// usage: suite.mjs [--json FILE] [MEMBER...]   members that begin with a given word; all without
//
// The three environment variables that `hutch serve` prints must be set.
import { writeFile } from "node:fs/promises";
import process from "node:process";
import * as library from "@deno/sandbox";

import client from "./checks/client.mjs";
import command from "./checks/command.mjs";
import deno from "./checks/deno.mjs";
import errors from "./checks/errors.mjs";
import environment from "./checks/environment.mjs";
import files from "./checks/files.mjs";
import notYet from "./checks/not_yet.mjs";
import openFile from "./checks/open_file.mjs";
import sandbox from "./checks/sandbox.mjs";
import { describe, publicMembers } from "./members.mjs";

const runtime = globalThis.Deno?.version?.deno
  ? `deno ${globalThis.Deno.version.deno}`
  : `node ${process.versions.node}`;
const LIMIT_MS = Number(process.env.HUTCH_SDK_LIMIT_MS ?? 240_000);

const words = process.argv.slice(2);
let jsonFile;
if (words[0] === "--json") [, jsonFile] = words.splice(0, 2);

function within(milliseconds, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no result after ${milliseconds} ms`)), milliseconds);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

const results = [];
function report(member, error, covers = []) {
  const ok = error === undefined;
  results.push({ member, covers, ok, message: ok ? "" : String(error?.message ?? error).slice(0, 500) });
  console.log(`${ok ? "ok" : "not ok"} ${results.length} - ${runtime}: ${member}`);
  if (!ok) {
    const text = String(error?.stack ?? error);
    for (const line of text.split("\n").slice(0, 12)) console.log(`# ${line}`);
  }
}

const groups = [sandbox, command, files, openFile, environment, deno, client, errors, notYet];
const chosen = groups.flat().filter(({ member }) =>
  words.length === 0 || words.some((word) => member.startsWith(word))
);

// One sandbox serves every check that does not ask for one of its own, so that the suite measures the
// client and not the emulator's boot time.
let shared;
let members = [];
try {
  shared = await within(LIMIT_MS, library.Sandbox.create({ timeout: "30m" }));
} catch (error) {
  report("Sandbox.create()", error);
}
if (shared) {
  for (const { member, check, covers } of chosen) {
    try {
      await within(LIMIT_MS, check(shared));
      report(member, undefined, covers);
    } catch (error) {
      report(member, error ?? new Error("nothing was thrown"), covers);
    }
  }
  members = publicMembers(library, shared, new library.Client());
  const checked = new Set(groups.flat().flatMap(({ covers }) => covers));
  const missing = members.filter((member) => !checked.has(member));
  const unknown = [...checked].filter((member) => !members.includes(member));
  report("every public member of the package has a check, and each check a member",
    missing.length + unknown.length ? new Error(`without: ${missing.join(" ")}; unknown: ${unknown.join(" ")}`) : undefined);
  // A call that a failed check left pending is rejected then, which nobody waits for.
  process.on("unhandledRejection", () => {});
  await within(LIMIT_MS, shared.kill()).catch((error) => report("the shared sandbox ends", error));
}

const failed = results.filter(({ ok }) => !ok).length;
if (jsonFile) await writeFile(jsonFile, JSON.stringify({ runtime, results, members: members.map(describe) }, null, 1) + "\n");
console.log(`1..${results.length}`);
// The client's timers would keep the runtime alive if a check left a connection behind.
process.exit(failed || results.length === 0 ? 1 : 0);
