/* Copyright (c) 2026 The minicloud.local authors
 * GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * For tests only: stands in for the program VBoxHeadless of VirtualBox on a machine without its kernel module. It loads
 * VirtualBox's own libraries and tells their runtime that there is no driver, so that a guest is run by VirtualBox's
 * interpreter. Everything else is VirtualBox's own code.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define HOME "/usr/lib/virtualbox/"

/* Flags of SUPR3InitEx: there is no driver, and the interpreter may be used. */
enum { DRIVERLESS = 1 << 2, DRIVERLESS_INTERPRETER = 1 << 3 };

static void *symbol(const char *library, const char *name)
{
    void *handle = dlopen(library, RTLD_NOW | RTLD_GLOBAL);
    void *found = handle ? dlsym(handle, name) : NULL;
    if (!found) {
        fprintf(stderr, "the launcher of the tests: %s\n", dlerror());
        exit(90);
    }
    return found;
}

int main(int argc, char **argv, char **envp)
{
    int (*init_runtime)(int, char ***, uint32_t) = symbol(HOME "VBoxRT.so", "RTR3InitExe");
    int (*init_support)(uint32_t, void *) = symbol(HOME "VBoxRT.so", "SUPR3InitEx");
    int (*trusted_main)(int, char **, char **);

    if (init_runtime(argc, &argv, 0) < 0 || init_support(DRIVERLESS | DRIVERLESS_INTERPRETER, NULL) < 0) {
        fprintf(stderr, "the launcher of the tests: VirtualBox's runtime could not be initialised\n");
        return 91;
    }
    trusted_main = symbol(HOME "VBoxHeadless.so", "TrustedMain");
    return trusted_main(argc, argv, envp);
}
