// What the parts beside the suite share: they print TAP, and end the process themselves, as the client's timers would
// keep it alive.
import { execFile } from "node:child_process";
import process from "node:process";
import { promisify } from "node:util";
import { eventually } from "./lib.mjs";

const run = promisify(execFile);
let count = 0;
let failed = 0;

/** Runs `body` and prints the line of it. */
export async function check(name, body) {
  try {
    await body();
    console.log(`ok ${++count} - ${name}`);
  } catch (error) {
    failed++;
    console.log(`not ok ${++count} - ${name}`);
    for (const line of String(error.stack ?? error).split("\n").slice(0, 8)) console.log(`# ${line}`);
  }
}

/** Ends the process: 1 where a check failed, or none was run. */
export function finish() {
  console.log(`1..${count}`);
  process.exit(failed || count === 0 ? 1 : 0);
}

/** What the program that HUTCH names prints; throws with `code` and `stderr` when it fails. */
export const hutch = async (...words) => (await run(process.env.HUTCH, words)).stdout;

/** Asks again until it holds, for two minutes. */
export const until = (condition) => eventually(condition, String(condition), 120_000);
