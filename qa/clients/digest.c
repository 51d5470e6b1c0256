/* Preloaded (LD_PRELOAD) into a program that uses libiscsi: every session offers HeaderDigest=CRC32C and nothing else.
 *
 * libiscsi takes a URL option for it, but fio parses its URLs without a session, and then the option crashes it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>

#include <iscsi/iscsi.h>

/* The program's own wish comes after the session was made, and is overruled. */
int iscsi_set_header_digest(struct iscsi_context *iscsi, enum iscsi_header_digest wish)
{
	int (*real)(struct iscsi_context *, enum iscsi_header_digest) =
		(int (*)(struct iscsi_context *, enum iscsi_header_digest)) dlsym(RTLD_NEXT, "iscsi_set_header_digest");

	(void)wish;
	if (real == NULL)
		abort();
	return real(iscsi, ISCSI_HEADER_DIGEST_CRC32C);
}

struct iscsi_context *iscsi_create_context(const char *initiator_name)
{
	struct iscsi_context *(*real)(const char *) = (struct iscsi_context * (*)(const char *)) dlsym(RTLD_NEXT, "iscsi_create_context");
	struct iscsi_context *iscsi;

	if (real == NULL)
		abort();
	iscsi = real(initiator_name);
	if (iscsi != NULL && iscsi_set_header_digest(iscsi, ISCSI_HEADER_DIGEST_CRC32C) != 0)
		abort();
	return iscsi;
}
