/* Sends single commands to a disk and says what came back.
 *
 *   probe [--initiator NAME] [--retry SECONDS] URL COMMAND...
 *
 *   COMMAND: tur | inquiry | vpd:PAGE | luns | groups | capacity | read:LBA | write:LBA | flush | sense   (numbers as in C)
 *
 * One line for each command: "<command> <outcome> [hex of the data in]"; the outcome is good, KEY/ASC/ASCQ in hex, or another status by name. Unit attentions that
 * a new session meets are passed over. EXIT_LOST when there is no login, or the connection ends. */
#include "common.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	ALLOCATION = 8192, /* bytes that an INQUIRY or REPORT LUNS may return */
	ATTENTIONS = 16,   /* unit attentions passed over before one is reported */
	TIMEOUT_S = 20,
};

/* REPORT TARGET PORT GROUPS, which libiscsi has no function for. */
static struct scsi_task *report_target_port_groups(struct iscsi_context *iscsi, int lun)
{
	unsigned char cdb[12] = { 0xa3, 0x0a, [8] = ALLOCATION >> 8, [9] = ALLOCATION & 0xff };
	struct scsi_task *task = scsi_create_task(sizeof(cdb), cdb, SCSI_XFER_READ, ALLOCATION);

	if (task == NULL)
		die(EXIT_LOST, "no memory");
	return iscsi_scsi_command_sync(iscsi, lun, task, NULL);
}

static struct scsi_task *send_command(struct iscsi_context *iscsi, int lun, const char *name, uint64_t argument)
{
	static uint8_t block[4096];

	if (strcmp(name, "tur") == 0)
		return iscsi_testunitready_sync(iscsi, lun);
	if (strcmp(name, "inquiry") == 0)
		return iscsi_inquiry_sync(iscsi, lun, 0, 0, ALLOCATION);
	if (strcmp(name, "vpd") == 0)
		return iscsi_inquiry_sync(iscsi, lun, 1, (int)argument, ALLOCATION);
	if (strcmp(name, "luns") == 0)
		return iscsi_reportluns_sync(iscsi, 0, ALLOCATION);
	if (strcmp(name, "groups") == 0)
		return report_target_port_groups(iscsi, lun);
	if (strcmp(name, "capacity") == 0)
		return iscsi_readcapacity16_sync(iscsi, lun);
	if (strcmp(name, "sense") == 0)
		return iscsi_modesense6_sync(iscsi, lun, 1, SCSI_MODESENSE_PC_CURRENT, SCSI_MODEPAGE_RETURN_ALL_PAGES, 0, 255);
	if (strcmp(name, "read") == 0)
		return iscsi_read10_sync(iscsi, lun, (uint32_t)argument, 512, 512, 0, 0, 0, 0, 0);
	if (strcmp(name, "write") == 0)
		return iscsi_write10_sync(iscsi, lun, (uint32_t)argument, block, 512, 512, 0, 0, 0, 0, 0);
	if (strcmp(name, "flush") == 0)
		return iscsi_synchronizecache10_sync(iscsi, lun, 0, 0, 0, 0);
	die(EXIT_USAGE, "unknown command '%s'", name);
}

static void probe(struct iscsi_context *iscsi, int lun, const char *word)
{
	char name[32], text[64];
	const char *colon = strchr(word, ':');
	size_t length = colon == NULL ? strlen(word) : (size_t)(colon - word);
	uint64_t argument = colon == NULL ? 0 : number(colon + 1, word);
	struct scsi_task *task = NULL;

	if (length >= sizeof(name))
		die(EXIT_USAGE, "unknown command '%s'", word);
	memcpy(name, word, length);
	name[length] = '\0';
	for (int i = 0; i < ATTENTIONS; i++) {
		task = send_command(iscsi, lun, name, argument);
		if (task == NULL)
			die(EXIT_LOST, "%s: %s", word, iscsi_get_error(iscsi));
		if (task->status != SCSI_STATUS_CHECK_CONDITION || task->sense.key != SCSI_SENSE_UNIT_ATTENTION)
			break;
		if (i + 1 < ATTENTIONS)
			scsi_free_scsi_task(task);
	}
	printf("%s %s", word, outcome(task, text, sizeof(text)));
	if (task->status == SCSI_STATUS_GOOD && task->datain.size > 0) {
		putchar(' ');
		for (int i = 0; i < task->datain.size; i++)
			printf("%02x", task->datain.data[i]);
	}
	putchar('\n');
	fflush(stdout);
	if (task->status >= (int)SCSI_STATUS_CANCELLED)
		die(EXIT_LOST, "%s: %s", word, iscsi_get_error(iscsi));
	scsi_free_scsi_task(task);
}

int main(int argc, char **argv)
{
	struct target target = { .initiator = "iqn.2026-11.io.lus.qa:probe", .timeout_s = TIMEOUT_S };
	struct iscsi_context *iscsi;
	char reason[256];
	int i = 1, lun;

	for (; i + 1 < argc && strncmp(argv[i], "--", 2) == 0; i += 2) {
		if (strcmp(argv[i], "--initiator") == 0)
			target.initiator = argv[i + 1];
		else if (strcmp(argv[i], "--retry") == 0)
			target.retry_s = (double)number(argv[i + 1], argv[i]);
		else
			die(EXIT_USAGE, "unknown option %s", argv[i]);
	}
	if (argc - i < 2)
		die(EXIT_USAGE, "usage: probe [--initiator NAME] [--retry SECONDS] URL COMMAND...");
	target.url = argv[i++];
	iscsi = session_open(&target, &lun, reason, sizeof(reason));
	if (iscsi == NULL)
		die(EXIT_LOST, "no login at %s: %s", target.url, reason);
	for (; i < argc; i++)
		probe(iscsi, lun, argv[i]);
	iscsi_logout_sync(iscsi);
	iscsi_destroy_context(iscsi);
	return EXIT_FINE;
}
