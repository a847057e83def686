/* A module for OpenIPMI's ipmi_sim that lets its simulated controller answer DCMI's "Get Power Reading", which ipmi_sim does not have.
 *
 * Option: a file that holds the watts; read at every request. Without the file the controller says that it does not measure.
 * Fields: DCMI specification 1.5, table 6-16. Handlers: OpenIPMI's mcserv.h.
 */
#include <stdio.h>
#include <string.h>
#include <OpenIPMI/mcserv.h>
#include <OpenIPMI/serv.h>

enum { GROUP_DCMI = 0xdc, GET_POWER_READING = 2, OK = 0, INVALID_COMMAND = 0xc1, ACTIVE = 0x40 };

static char path[512];

static void answer(lmc_data_t *mc, msg_t *request, unsigned char *out, unsigned int *length, void *data) {
    unsigned int watts = 0;
    int there = 0;
    FILE *file = fopen(path, "r");
    (void)mc, (void)data;
    if (file) {
        there = fscanf(file, "%u", &watts) == 1;
        fclose(file);
    }
    if (request->cmd != GET_POWER_READING) {
        out[0] = INVALID_COMMAND;
        *length = 1;
        return;
    }
    memset(out, 0, 19);
    out[0] = OK;
    out[1] = GROUP_DCMI;
    for (int field = 0; field < 4; field++) { /* present, least, most, average */
        out[2 + 2 * field] = watts & 0xff;
        out[3 + 2 * field] = (watts >> 8) & 0xff;
    }
    out[18] = there ? ACTIVE : 0;
    *length = 19;
}

int ipmi_sim_module_print_version(sys_data_t *sys, char *options) { (void)sys, (void)options; return 0; }
int ipmi_sim_module_init(sys_data_t *sys, const char *options) {
    (void)sys;
    snprintf(path, sizeof path, "%s", options);
    ipmi_emu_register_group_extension_handler(GROUP_DCMI, answer, NULL);
    return 0;
}
