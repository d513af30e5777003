// drive.mjs PROGRAM: opens pages in Chromium and evaluates expressions in them, for chromium_test.go. It reads JSON-RPC
// from standard input, a call a line, and ends when that ends. Calls run side by side.
import {createInterface} from 'node:readline'
import {chromium} from 'playwright-core'

const browser = await chromium.launch({
  executablePath: process.argv[2],
  args: ['--no-sandbox', '--disable-background-networking'],
})
const tabs = await browser.newContext() // one for all: tabs of one user
const pages = []

const methods = {
  version: () => browser.version(),
  open: async url => {
    const page = await tabs.newPage()
    await page.goto(url)
    return pages.push(page) - 1
  },
  evaluate: ({page, expression}) => pages[page].evaluate(expression),
  close: page => pages[page].close(),
}

async function answer({id, method, params}) {
  const a = {id, result: null, error: null}
  try {
    a.result = await methods[method](...params) ?? {} // net/rpc wants a result or an error
  } catch (e) {
    a.error = e.message
  }
  console.log(JSON.stringify(a))
}

for await (const line of createInterface({input: process.stdin})) answer(JSON.parse(line))
await browser.close()
